"""Arithmetic modulo 2**64 on arrays, for the `hash` model."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from scripted_reference.models.hash_weights import MASK_64, MIX_1, MIX_2

WordArray = npt.NDArray[np.uint64]


def words(*values: int) -> WordArray:
    """Return the values as an array: NumPy wraps silently in arrays but warns about scalars."""
    return np.array([value & MASK_64 for value in values], dtype=np.uint64)


def powers(base: int, count: int) -> WordArray:
    """Return `base**0` to `base**(count - 1)`."""
    factors = np.full(count, base, dtype=np.uint64)
    factors[0] = 1
    return np.cumprod(factors, dtype=np.uint64)


# Made once: as many of them cost more than the arithmetic on a small batch.
_BY_30, _BY_27, _BY_31 = np.uint64(30), np.uint64(27), np.uint64(31)
_MUL_1, _MUL_2 = np.uint64(MIX_1), np.uint64(MIX_2)


def mix64_array(values: WordArray) -> WordArray:
    """Return `hash_weights.mix64` of each value."""
    values = (values ^ (values >> _BY_30)) * _MUL_1
    values = (values ^ (values >> _BY_27)) * _MUL_2
    return values ^ (values >> _BY_31)
