"""The comparisons that the SGLang table is made of."""

from __future__ import annotations

from enum import StrEnum


class Part(StrEnum):
    """A comparison, with two servers of its own."""

    ONE_DEVICE = "one-device"
    PIPELINE = "pipeline"
    FREE_RUNNING = "free-running"
