"""Results of a run for other programs."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from scripted_core.cli.execute import Ran
from scripted_core.cli.find import FoundScripts


def results_as_json(results: Sequence[Ran], found: FoundScripts) -> str:
    """One JSON object: the file, what was run with its whole trace, and what was left out and why."""
    document = {
        "file": str(found.path),
        "left_out": found.left_out,
        "scripts": [
            {
                "name": result.name,
                "engine": result.engine,
                "mode": result.mode,
                "seed": result.seed,
                "outcome": result.outcome,
                "steps": result.steps,
                "invariants_checked": result.invariants_checked,
                "event_digest": result.digest,
                "error_code": result.code,
                "message": result.text or None,
                "trace": result.trace,
            }
            for result in results
        ],
    }
    return msgspec.json.format(msgspec.json.encode(document), indent=2).decode()
