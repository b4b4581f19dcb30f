"""Stand-in for triton on a machine without it: kernels can be defined, none can be launched.

Host-side arithmetic (`cdiv`, `next_power_of_2`) is real, since schedulers call it. A submodule of
any name can be imported; `_submodules` makes them on demand.
"""

from __future__ import annotations

import sys

from triton import _submodules
from triton._kernels import Config, JITFunction, autotune, heuristics, jit

__version__ = "3.0.0"
__all__ = [
    "Config",
    "JITFunction",
    "autotune",
    "cdiv",
    "heuristics",
    "jit",
    "next_power_of_2",
]

IS_STANDIN = True


def cdiv(numerator: int, denominator: int) -> int:
    """Return the quotient rounded up."""
    return -(numerator // -denominator)


def next_power_of_2(number: int) -> int:
    """Return the smallest power of two that is at least `number` (0 for 0 and below)."""
    return 1 << (number - 1).bit_length() if number > 0 else 0


def __getattr__(name: str) -> object:
    return _submodules.attribute(__name__, name)


_submodules.install(sys.meta_path)
