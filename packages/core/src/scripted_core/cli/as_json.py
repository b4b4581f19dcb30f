"""Results of a run for other programs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from scripted_core.cli.find import FoundScripts
from scripted_core.cli.results import Ran


def results_as_json(results: Sequence[Ran], found: FoundScripts) -> str:
    """One JSON object: the file, what was run with its whole trace, and what was left out and why."""
    document = {
        "file": str(found.path),
        "left_out": found.left_out,
        "scripts": [
            {
                "name": result.heading.name,
                "engine": result.heading.engine,
                "mode": result.heading.mode,
                "seed": result.heading.seed,
                "outcome": result.outcome,
                "steps": result.steps,
                "invariants_checked": result.invariants_checked,
                "checked": result.checks,
                "event_digest": result.digest,
                "error_code": result.code,
                "message": result.text or None,
                "trace": result.trace,
            }
            for result in results
        ],
    }
    try:
        encoded = msgspec.json.encode(document)
    except UnicodeEncodeError:  # a lone surrogate, in a message for one
        encoded = msgspec.json.encode(_encodable(msgspec.to_builtins(document)))
    return msgspec.json.format(encoded, indent=2).decode()


def _encodable(value: Any) -> Any:
    """``value`` with every text as UTF-8 can hold it."""
    match value:
        case str():
            return value.encode("utf-8", "backslashreplace").decode()
        case dict():
            return {_encodable(key): _encodable(item) for key, item in value.items()}
        case list() | tuple():
            return [_encodable(item) for item in value]
        case _:
            return value
