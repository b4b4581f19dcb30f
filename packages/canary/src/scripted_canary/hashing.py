"""Two hashes, both of 64 bits and vectorized: of a prefix of tokens, and of the bytes in slots.

The hash of a prefix is a chain: ``chain[p] = G * chain[p-1] + word(token, p)`` modulo 2^64, G odd.
Odd numbers have inverses there, so a whole run of it is one cumulative sum:
``chain[s+k] = G^(k+1) * (chain[s-1] + sum_{j<=k} word[s+j] / G^(j+1))``. It is a polynomial hash after
Karp and Rabin (1987), "Efficient randomized pattern-matching algorithms".

The hash of bytes multiplies each 64-bit word, its high half folded into the low one, with an odd weight
of its own and adds up. One changed word always shows, since an odd weight is invertible.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any, Final

import numpy as np

from scripted_canary.arrays import Array, Arrays, Words
from scripted_canary.settings import RealData

GROWTH: Final = -3372029247567499371
"""G, as a signed number of 64 bits."""
SEED: Final = 0x1F83D9ABFB41BD6B
"""The chain before the first token."""
# NumPy takes several µs to see what a plain number is, for each operation; torch takes these as well.
WORD_FACTOR: Final = np.int64(-7046029254386353131)
WORD_SHIFT: Final = np.int64(29)
_HEAD_SHIFT: Final = np.int64(32)
_MASK: Final = (1 << 64) - 1
PARTIAL_BYTES: Final = 16
"""So many bytes of a slot are hashed in mode ``partial``."""
POSITION_SHIFT: Final = int(_HEAD_SHIFT)


def head_of(tokens: Array, positions: Array) -> Array:
    """Pack token and position into one word each."""
    return (positions << _HEAD_SHIFT) + tokens


def word_of(heads: Array) -> Array:
    """What a token at a position adds to the chain."""
    return (heads ^ (heads >> WORD_SHIFT)) * WORD_FACTOR


class ChainPowers:
    """G^n and G^-n for all n that a context can need."""

    def __init__(self, length: int, *, arrays: Arrays) -> None:
        inverse = pow(GROWTH & _MASK, -1, 1 << 64)
        self.growth = arrays.whole(_powers(GROWTH & _MASK, length + 1))
        self.inverse = arrays.whole(_powers(inverse, length + 1))

    def run(self, before: Array, words: Array) -> Array:
        """Return the chain at each of ``words`` (``int64[n]``) behind ``before`` (``int64[1]``)."""
        n = len(words)
        scaled = words * self.inverse[1 : n + 1]
        return (scaled.cumsum(0) + before) * self.growth[1 : n + 1]


@functools.cache
def _powers(base: int, count: int) -> tuple[int, ...]:
    values = [1]
    for _ in range(count - 1):
        values.append(values[-1] * base & _MASK)
    return tuple(signed(value) for value in values)


def signed(value: int) -> int:
    """A number modulo 2^64, as a signed one."""
    value &= _MASK
    return value - (1 << 64) if value >> 63 else value


class ByteHash:
    """The hash of what slots hold, over some or all of the bytes in the buffers of a pool.

    Attributes:
        parts: the words of each buffer that are hashed, and their weights.
    """

    def __init__(self, buffers: Sequence[Any], *, real_data: RealData, arrays: Arrays) -> None:
        """Keep views of the buffers as they are; nothing is copied."""
        self._arrays = arrays
        self.parts: list[tuple[Words, Array]] = []
        if real_data is RealData.NONE:
            return
        limit = PARTIAL_BYTES if real_data is RealData.PARTIAL else None
        used = 0
        for buffer in buffers[:1] if limit is not None else buffers:
            words = arrays.words(buffer, limit=limit)
            self.parts.append((words, arrays.whole(_weights(used, words.count))))
            used += words.count

    def of(self, slots: Array) -> Array:
        """Return the hash of each slot, ``int64[n]``."""
        total: Array = None
        for words, weights in self.parts:
            part = self._arrays.folded_sum(words.of(slots), weights)
            total = part if total is None else total + part
        assert total is not None, "asked only where real data is hashed"
        return total


@functools.cache
def _weights(first: int, count: int) -> tuple[int, ...]:
    """Return odd weights for words ``first`` and on."""
    weights = []
    for index in range(first, first + count):
        value = (index + 1) * 0x9E3779B97F4A7C15 & _MASK
        value = (value ^ (value >> 30)) * 0xBF58476D1CE4E5B9 & _MASK
        value = (value ^ (value >> 27)) * 0x94D049BB133111EB & _MASK
        weights.append(signed((value ^ (value >> 31)) | 1))
    return tuple(weights)
