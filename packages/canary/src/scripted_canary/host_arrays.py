"""Array operations in NumPy, in host memory, torch tensors there too, without a copy.

For some hundred slots a call of NumPy takes a fraction of what one of torch takes. What lies on an
accelerator stays there, see ``device_arrays``.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from scripted_core.errors import ConfigError

from scripted_canary.arrays import Array, Arrays, Flag, Mirror, SameMemory, Words


class Decided:
    """A flag that is known."""

    def __init__(self, value: bool) -> None:
        self._value = value

    def read(self) -> bool:
        """Return it."""
        return self._value


class HostArrays:
    """Arrays in host memory, by NumPy."""

    is_immediate = True

    def __init__(self) -> None:
        self._nothing = contextlib.nullcontext()

    def mirror(self, values: Any) -> Mirror:
        """The same memory as a NumPy array."""
        return SameMemory(values if isinstance(values, np.ndarray) else values.detach().numpy())

    def whole(self, values: Any) -> Array:
        """Whole numbers as ``int64[n]``."""
        return np.asarray(values, dtype=np.int64)

    def zeros(self, *shape: int) -> Array:
        """``int64`` zeros."""
        return np.zeros(shape, dtype=np.int64)

    def as_bytes(self, buffer: Any) -> Array:
        """A buffer as ``uint8[slots, bytes]``, the same memory."""
        if isinstance(buffer, np.ndarray):
            _check_contiguous(buffer.flags.c_contiguous)
            return buffer.reshape(len(buffer), -1).view(np.uint8)
        _check_contiguous(buffer.is_contiguous())
        import torch  # whoever gives a tensor has it; NumPy lacks some of its types, bfloat16 above all

        return buffer.detach().view(len(buffer), -1).view(torch.uint8).numpy()

    def words(self, buffer: Any, *, limit: int | None) -> Words:
        """A buffer as words."""
        content = self.as_bytes(buffer)
        if limit == _PAIR.itemsize and content.shape[1] > limit and _has_words(content, np.int64):
            return _FirstPairs(content)
        return _WholeSlots(content, limit=limit)

    def take(self, values: Array, indices: Array) -> Array:
        """``values[indices]``."""
        # What does not exist is the nearest one, which holds something else; checking would take longer.
        return values.take(indices, axis=0, mode="clip")

    def put(self, values: Array, indices: Array, new: Array) -> None:
        """``values[indices] = new``."""
        values[indices] = new

    def block(self, matrix: Array, rows: Array, first: int, last: int) -> Array:
        """Columns of some rows."""
        return matrix[rows, first:last].reshape(-1)

    def repeat(self, values: Array, counts: Array) -> Array:
        """Each value as often as its count says."""
        return values.repeat(counts)

    def arange(self, count: int) -> Array:
        """0, 1, 2, ..."""
        return np.arange(count, dtype=np.int64)

    def folded_sum(self, words: Array, weights: Array) -> Array:
        """The weighted sum of each row."""
        folded = words >> _HALF
        folded ^= words
        return folded @ weights

    def where(self, mask: Array) -> list[int]:
        """Indices of what is true."""
        indices: list[int] = np.flatnonzero(mask).tolist()
        return indices

    def total(self, values: Array) -> Array | int:
        """The sum of a few values."""
        return sum(values.tolist())

    def flip(self, content: Array, slot: int, at: int, bits: int) -> None:
        """Flip bits of a byte."""
        content[slot, at] ^= bits

    def choose(self, mask: Array, one: Array, other: Array | int) -> Array:
        """``one`` or ``other``."""
        return np.where(mask, one, other)

    def flag(self, masks: Sequence[Array]) -> Flag:
        """Whether any mask is true anywhere."""
        # Ten times as fast as any().
        for mask in masks:
            if np.count_nonzero(mask):
                return _TRUE
        return _FALSE

    def beside(self) -> contextlib.AbstractContextManager[object]:
        """There is no beside."""
        return self._nothing

    def join(self) -> None:
        """Nothing runs beside."""


# Constants as NumPy's own: it takes several µs to see what a plain number is, for each operation.
_HALF: Final = np.int64(32)
_PAIR: Final = np.dtype(np.complex128)
_TRUE, _FALSE = Decided(True), Decided(False)


class _WholeSlots:
    """All words of each slot, or the first ones."""

    def __init__(self, content: Array, *, limit: int | None) -> None:
        words = content
        for kind in (np.int64, np.int32):
            if _has_words(content, kind):
                words = content.view(kind)
                break
        self._words = words
        self._kept = words.shape[1] if limit is None else limit // words.itemsize
        self.count: int = min(self._kept, words.shape[1])

    def of(self, slots: Array) -> Array:
        """``int64[n, count]``."""
        return self._words.take(slots, axis=0, mode="clip")[:, : self._kept].astype(
            np.int64, copy=False
        )


class _FirstPairs:
    """The first 16 bytes of each slot.

    Seen as one item of that size each: to gather rows of a strided array takes NumPy ten times as long.
    """

    count = 2

    def __init__(self, content: Array) -> None:
        self._items = np.ndarray(
            (len(content),), dtype=_PAIR, buffer=content, strides=(content.shape[1],)
        )

    def of(self, slots: Array) -> Array:
        """``int64[n, 2]``."""
        try:
            found = self._items[slots]
        except IndexError:  # to look first takes longer than all the rest
            found = self._items[slots.clip(0, len(self._items) - 1)]
        return found.view(np.int64).reshape(-1, 2)


def arrays_for(buffer: Any) -> Arrays:
    """The arrays for what lies where this buffer does."""
    if isinstance(buffer, np.ndarray) or buffer.device.type == "cpu":
        return HostArrays()
    from scripted_canary.device_arrays import DeviceArrays  # torch takes a second

    return DeviceArrays(buffer.device)


def _has_words(content: Array, kind: type[np.integer[Any]]) -> bool:
    size = np.dtype(kind).itemsize
    return bool(content.shape[1] % size == 0 and content.ctypes.data % size == 0)


def _check_contiguous(is_contiguous: bool) -> None:
    if not is_contiguous:
        raise ConfigError(
            "a KV buffer does not lie in one piece, so that its slots cannot be seen as bytes",
            hint="let kv_groups() name contiguous buffers, slots first",
        )
