"""The few array operations that a canary needs beside operators, in host memory or on a device."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Any, Protocol, TypeAlias

Array: TypeAlias = Any
"""A NumPy array or a torch tensor; the operators that are used mean the same on both."""


class Flag(Protocol):
    """Whether anything was wrong, known now or later."""

    def read(self) -> bool:
        """Return it, waiting for a device if need be."""
        ...


class Words(Protocol):
    """A buffer ``[slots, ...]`` seen as whole numbers."""

    @property
    def count(self) -> int:
        """Words of a slot."""
        ...

    def of(self, slots: Array) -> Array:
        """``int64[n, count]``, a copy of what some slots hold."""
        ...


class Mirror(Protocol):
    """Memory of an engine, seen where the canary works.

    Attributes:
        source: the engine's own, to look into and to change.
        here: what is worked with: the same memory, or a copy of what it was at the last ``refresh``.
    """

    source: Array
    here: Array

    def refresh(self) -> Array:
        """Take in what the engine has written since, if this is a copy; return ``here``."""
        ...


class Arrays(Protocol):
    """One place for arrays: host memory, or a device."""

    is_immediate: bool
    """Whether a result can be looked at for nothing, at once."""

    def mirror(self, values: Any) -> Mirror:
        """Memory of the engine, wherever it lies."""
        ...

    def whole(self, values: Any) -> Array:
        """Whole numbers as ``int64[n]``, a copy only where they are not."""
        ...

    def zeros(self, *shape: int) -> Array:
        """``int64`` zeros."""
        ...

    def as_bytes(self, buffer: Any) -> Array:
        """A buffer ``[slots, ...]`` as ``uint8[slots, bytes]``, the same memory."""
        ...

    def words(self, buffer: Any, *, limit: int | None) -> Words:
        """A buffer as words of 64 bits, or of 32 or 8 where those do not fit, the same memory.

        ``limit``: only so many bytes of each slot, from the first on; ``None`` for all.
        """
        ...

    def take(self, values: Array, indices: Array) -> Array:
        """``values[indices]`` along the first axis; ``indices`` has one axis."""
        ...

    def put(self, values: Array, indices: Array, new: Array) -> None:
        """``values[indices] = new`` along the first axis."""
        ...

    def block(self, matrix: Array, rows: Array, first: int, last: int) -> Array:
        """Columns ``first`` up to ``last`` of some rows, one after the other: ``[rows * columns]``."""
        ...

    def repeat(self, values: Array, counts: Array) -> Array:
        """Each value as often as its count says."""
        ...

    def arange(self, count: int) -> Array:
        """``int64`` 0, 1, 2, ..."""
        ...

    def folded_sum(self, words: Array, weights: Array) -> Array:
        """The weighted sum of each row of words, the high half of each folded into its low one."""
        ...

    def where(self, mask: Array) -> list[int]:
        """The indices at which a mask of one axis is true."""
        ...

    def total(self, values: Array) -> Array | int:
        """The sum of a few values."""
        ...

    def flip(self, content: Array, slot: int, at: int, bits: int) -> None:
        """Flip bits of a byte of ``uint8[slots, bytes]``."""
        ...

    def choose(self, mask: Array, one: Array, other: Array | int) -> Array:
        """``one`` where the mask is true, else ``other``."""
        ...

    def flag(self, masks: Sequence[Array]) -> Flag:
        """Whether any of several masks is true anywhere."""
        ...

    def beside(self) -> contextlib.AbstractContextManager[object]:
        """What is computed in this context runs beside what the engine runs, where that is possible."""
        ...

    def join(self) -> None:
        """Let what comes now wait for what runs beside."""
        ...


class SameMemory:
    """What lies where the canary works."""

    def __init__(self, values: Array) -> None:
        self.source = self.here = values

    def refresh(self) -> Array:
        """There is nothing to take in."""
        return self.here
