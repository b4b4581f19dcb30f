"""Durations for people."""

from __future__ import annotations


def duration(seconds: float | None) -> str:
    """Return a duration for people: "-", "8 s", "3 min 20 s", "1 h 5 min"."""
    if seconds is None:
        return "-"
    whole = max(1, round(seconds))
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    if minutes < 60:
        return f"{minutes} min {rest} s" if rest else f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if minutes else f"{hours} h"
