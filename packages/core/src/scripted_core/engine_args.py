"""``name=value`` on a command line, as an engine's keyword arguments."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from scripted_core.errors import ConfigError

_PYTHON_WORDS = {"True": True, "False": False, "None": None}


def parse_engine_args(pairs: Iterable[str], *, option: str = "--engine-arg") -> dict[str, Any]:
    """Return the arguments by name; a later pair of the same name is a ``ConfigError``.

    ``option`` is what they were given with, for the error.

    A value is read as JSON (``64``, ``0.5``, ``true``, ``[1, 2]``), or as Python's ``True``,
    ``False`` and ``None``; anything else is the string that it is. Dashes in a name are underscores,
    so that an argument can be copied from a server's command line.
    """
    parsed: dict[str, Any] = {}
    for pair in pairs:
        key, equals, text = pair.partition("=")
        name = key.strip().lstrip("-").replace("-", "_")
        if not equals or not name.isidentifier():
            raise ConfigError(
                f"{option} {pair!r} is not of the form name=value",
                hint=f"for example: {option} page_size=16",
            )
        if name in parsed:
            raise ConfigError(f"{option} {name} is given twice", hint="leave one of the two out")
        parsed[name] = _value(text)
    return parsed


def _value(text: str) -> Any:
    if text in _PYTHON_WORDS:
        return _PYTHON_WORDS[text]
    try:
        return json.loads(text)
    except ValueError:
        return text
