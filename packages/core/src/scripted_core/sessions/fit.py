"""Whether an engine that somebody else has configured is as a test wants it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_NOT_COMPARED = frozenset({"model_path", "host", "port"})
"""Whoever attaches takes the model that is there, and has its address."""


def misfit(wanted: Mapping[str, Any], arguments: Mapping[str, Any]) -> str | None:
    """Why a test that wants these server arguments cannot run on an engine that has those.

    ``None`` when it can: ``None`` as a wanted value stands for the engine's default, and an argument
    of which the engine says nothing counts as it is.
    """
    differing = [
        f"{name}={arguments[name]!r} (the test wants {value!r})"
        for name, value in wanted.items()
        if name not in _NOT_COMPARED
        and value is not None
        and name in arguments
        and _comparable(value) != _comparable(arguments[name])
    ]
    if not differing:
        return None
    return f"the engine that is attached to runs with {', '.join(differing)}"


def _comparable(value: Any) -> Any:
    if isinstance(value, (list, tuple)):
        return [_comparable(item) for item in value]
    if isinstance(value, (str, bool, int, float)) or value is None:
        return value
    return str(value)
