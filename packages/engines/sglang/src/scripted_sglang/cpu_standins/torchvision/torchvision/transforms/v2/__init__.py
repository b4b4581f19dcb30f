"""Stand-in for `torchvision.transforms.v2`."""

from __future__ import annotations

from typing import Any

from torchvision._missing import missing
from torchvision.transforms import InterpolationMode

__all__ = ["InterpolationMode"]


def __getattr__(name: str) -> Any:
    return missing(__name__, name)
