"""The ways to look at a run."""

from __future__ import annotations

from enum import StrEnum


class View(StrEnum):
    """What ``--view`` takes."""

    AUTO = "auto"
    """Live on a terminal, a table anywhere else."""
    LIVE = "live"
    TABLE = "table"
    NONE = "none"
    """The verdict only."""
