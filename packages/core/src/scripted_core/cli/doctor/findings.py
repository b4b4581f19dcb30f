"""What a look at something gives."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum


class Level(StrEnum):
    """How good or bad a finding is."""

    OK = "ok"
    WARN = "warn"
    """It works, or could be done without; somebody should know."""
    MISSING = "missing"
    """It is not there, or cannot be used."""


class Area(StrEnum):
    """What a finding is about, in the order in which they are shown."""

    PYTHON = "Python"
    DISTRIBUTIONS = "Distributions"
    PLUGINS = "Plugins"
    ENGINES = "Engines"
    PARTS = "Optional parts"
    MACHINE = "This machine"
    PYTEST = "pytest"


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One line of the report; ``remedy`` is what to type or to do, where there is something."""

    area: Area
    level: Level
    name: str
    text: str
    remedy: str | None = None


@dataclass(frozen=True, kw_only=True)
class Survey:
    """All findings, and whether scripts can run on at least one engine."""

    findings: Sequence[Finding]
    can_run: bool
