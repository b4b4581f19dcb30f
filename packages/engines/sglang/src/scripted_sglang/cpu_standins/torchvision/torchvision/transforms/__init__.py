"""Stand-in for `torchvision.transforms`: the interpolation modes are real, transforms are not."""

from __future__ import annotations

from enum import Enum
from typing import Any

from torchvision._missing import missing


class InterpolationMode(Enum):
    """The interpolation modes, with the values that image processors look up."""

    NEAREST = "nearest"
    NEAREST_EXACT = "nearest-exact"
    BILINEAR = "bilinear"
    BICUBIC = "bicubic"
    BOX = "box"
    HAMMING = "hamming"
    LANCZOS = "lanczos"


def __getattr__(name: str) -> Any:
    return missing(__name__, name)
