"""Scripts as things that travel: how a test names one, and how the engine side gets at it."""

from __future__ import annotations

from scripted_core.scripts.loader import ScriptLoader
from scripted_core.scripts.reference import reference_of
from scripted_core.scripts.resolve import resolve_fn

__all__ = ["ScriptLoader", "reference_of", "resolve_fn"]
