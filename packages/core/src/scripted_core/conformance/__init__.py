"""What an engine makes of the calls of a script: each meaning tried out, and judged.

``scripted conformance`` prints the result; :func:`run_conformance` gives it as data. Names are loaded
on first use: the engine's process imports one module of scripts and none of what judges them.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from scripted_core.conformance.check import Check, EngineFacts
    from scripted_core.conformance.document import as_markdown, check_document, write_document
    from scripted_core.conformance.judge import run_conformance
    from scripted_core.conformance.suite import CHECKS, DEFAULT_ENGINE_KWARGS
    from scripted_core.conformance.verdict import Conformance, Row, Verdict

_HOMES = {
    "CHECKS": "suite",
    "DEFAULT_ENGINE_KWARGS": "suite",
    "Check": "check",
    "Conformance": "verdict",
    "EngineFacts": "check",
    "Row": "verdict",
    "Verdict": "verdict",
    "as_markdown": "document",
    "check_document": "document",
    "run_conformance": "judge",
    "write_document": "document",
}

__all__ = [
    "CHECKS",
    "DEFAULT_ENGINE_KWARGS",
    "Check",
    "Conformance",
    "EngineFacts",
    "Row",
    "Verdict",
    "as_markdown",
    "check_document",
    "run_conformance",
    "write_document",
]


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"scripted_core.conformance.{home}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
