"""Stand-in for torchvision: its names can be imported, none can be called."""

from __future__ import annotations

from typing import Any

from torchvision._missing import missing

__version__ = "0.0.0"

IS_STANDIN = True


def __getattr__(name: str) -> Any:
    return missing(__name__, name)
