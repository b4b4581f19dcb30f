"""What the hook is doing with the engine."""

from __future__ import annotations

from enum import StrEnum


class Phase(StrEnum):
    """What the hook is doing with the engine."""

    FREE = "free"
    RESET = "reset"
    SCRIPT = "script"
    SETTLE = "settle"
    """The script is over; later pipeline stages have yet to end its last iterations."""
