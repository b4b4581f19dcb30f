"""From which temperature on a model samples."""

from __future__ import annotations

from typing import Final

GREEDY_BELOW: Final = 1e-6
"""Temperatures below it are greedy, as in SGLang: logits divided by less overflow."""


def is_greedy(temperature: float | None) -> bool:
    """Return whether a request with this temperature (not negative) gets the likeliest token."""
    return temperature is None or temperature < GREEDY_BELOW
