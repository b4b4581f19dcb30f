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
from typing import Final

import torch

from scripted_canary.settings import RealData

GROWTH: Final = -3372029247567499371
"""G, as a signed number of 64 bits."""
SEED: Final = 0x1F83D9ABFB41BD6B
"""The chain before the first token."""
_WORD_FACTOR: Final = -7046029254386353131
_MASK: Final = (1 << 64) - 1
_PARTIAL_BYTES: Final = 16
POSITION_SHIFT: Final = 32


def head_of(tokens: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
    """Pack token and position into one word each."""
    return (positions << POSITION_SHIFT) + tokens


def word_of(heads: torch.Tensor) -> torch.Tensor:
    """What a token at a position adds to the chain."""
    return (heads ^ (heads >> 29)) * _WORD_FACTOR


class ChainPowers:
    """G^n and G^-n for all n that a context can need."""

    def __init__(self, length: int, *, device: torch.device) -> None:
        inverse = pow(GROWTH & _MASK, -1, 1 << 64)
        self.growth = _powers(GROWTH & _MASK, length + 1).to(device)
        self.inverse = _powers(inverse, length + 1).to(device)

    def run(self, before: torch.Tensor, words: torch.Tensor) -> torch.Tensor:
        """Return the chain at each of ``words`` (``int64[n]``), behind the chain ``before``."""
        n = len(words)
        scaled: torch.Tensor = words * self.inverse[1 : n + 1]
        return (scaled.cumsum(0) + before) * self.growth[1 : n + 1]


def _powers(base: int, count: int) -> torch.Tensor:
    values = [1]
    for _ in range(count - 1):
        values.append(values[-1] * base & _MASK)
    signed = [value - (1 << 64) if value >> 63 else value for value in values]
    return torch.tensor(signed, dtype=torch.int64)


class ByteHash:
    """The hash of what slots hold, over some or all of the bytes in the buffers of a pool."""

    def __init__(self, buffers: Sequence[torch.Tensor], *, real_data: RealData) -> None:
        """Keep views of the buffers as they are; nothing is copied."""
        self._parts: list[tuple[torch.Tensor, torch.Tensor]] = []
        if real_data is RealData.NONE:
            return
        wanted = buffers[:1] if real_data is RealData.PARTIAL else buffers
        used = 0
        for buffer in wanted:
            words = words_of(buffer)
            if real_data is RealData.PARTIAL:
                words = words[:, : _PARTIAL_BYTES // words.element_size()]
            weights = _weights(used, words.shape[1]).to(words.device)
            self._parts.append((words, weights))
            used += words.shape[1]

    def of(self, slots: torch.Tensor) -> torch.Tensor:
        """Return the hash of each slot, ``int64[n]``."""
        total: torch.Tensor | None = None
        for words, weights in self._parts:
            held = words.index_select(0, slots)
            if held.dtype != torch.int64:
                held = held.to(torch.int64)
            part = ((held ^ (held >> 32)) * weights).sum(1)
            total = part if total is None else total + part
        assert total is not None, "asked only where real data is hashed"
        return total


def words_of(buffer: torch.Tensor) -> torch.Tensor:
    """A buffer ``[slots, ...]`` as whole numbers, ``[slots, words]``: the same memory.

    Words have 64 bits where the bytes of a slot can be divided into such, else 32 or 8.
    """
    flat = buffer.flatten(1)
    size = flat.shape[1] * flat.element_size()
    for kind in (torch.int64, torch.int32, torch.uint8):
        if size % kind.itemsize == 0 and flat.data_ptr() % kind.itemsize == 0:
            return flat.view(kind)
    raise AssertionError("bytes can always be seen as bytes")


@functools.cache
def _weights(first: int, count: int) -> torch.Tensor:
    """Return odd weights for words ``first`` and on."""
    signed = []
    for index in range(first, first + count):
        value = (index + 1) * 0x9E3779B97F4A7C15 & _MASK
        value = (value ^ (value >> 30)) * 0xBF58476D1CE4E5B9 & _MASK
        value = (value ^ (value >> 27)) * 0x94D049BB133111EB & _MASK
        value = (value ^ (value >> 31)) | 1
        signed.append(value - (1 << 64) if value >> 63 else value)
    return torch.tensor(signed, dtype=torch.int64)
