"""Stand-in for `torchvision.io`."""

from __future__ import annotations

from typing import Any

from torchvision._missing import missing


def __getattr__(name: str) -> Any:
    return missing(__name__, name)
