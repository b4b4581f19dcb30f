"""Explore: search orders of operations on an engine, and shrink what fails to a script.

Kept light to import: Hypothesis is imported when something is shrunk or drawn as a strategy.
"""

from __future__ import annotations

from scripted_explore._version import __version__
from scripted_explore.errors import ProgramFailed, RuleBroken
from scripted_explore.exploring import explore
from scripted_explore.program import Program
from scripted_explore.replaying import replay
from scripted_explore.sometimes import Sometimes

__all__ = [
    "Program",
    "ProgramFailed",
    "RuleBroken",
    "Sometimes",
    "__version__",
    "explore",
    "replay",
]
