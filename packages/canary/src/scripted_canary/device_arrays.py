"""Array operations in torch, on an accelerator, where the host never waits for what it started.

Whether anything was wrong is copied to the host without waiting, and looked at when the next forward
begins. What a forward reads is verified beside it, in a stream of its own: it writes other slots.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from scripted_core.errors import ConfigError

from scripted_canary.arrays import Array, Flag, Mirror, SameMemory, Words


class DeviceFlag:
    """A flag on its way to the host."""

    def __init__(self, flag: torch.Tensor) -> None:
        self._event: torch.cuda.Event | None = None
        if flag.device.type == "cuda":
            self._host = torch.empty((), dtype=flag.dtype, pin_memory=True)
            self._host.copy_(flag, non_blocking=True)
            self._event = torch.cuda.Event()
            self._event.record(torch.cuda.current_stream(flag.device))
        else:
            self._host = flag

    def read(self) -> bool:
        """Return it, waiting for the device if need be."""
        if self._event is not None:
            self._event.synchronize()
        return bool(self._host)


class DeviceWords:
    """Words of each slot.

    Attributes:
        values: ``[slots, count]``, the buffer's own memory.
        count: words of a slot.
    """

    def __init__(self, content: torch.Tensor, *, limit: int | None) -> None:
        words = content
        for kind in (torch.int64, torch.int32):
            if content.shape[1] % kind.itemsize == 0 and content.data_ptr() % kind.itemsize == 0:
                words = content.view(kind)
                break
        self.values = words if limit is None else words[:, : limit // words.element_size()]
        self.count: int = self.values.shape[1]

    def of(self, slots: Array) -> Array:
        """``int64[n, count]``."""
        return self.values.index_select(0, slots).to(torch.int64)


class HostMirror:
    """A copy, on a device, of what an engine keeps in host memory."""

    def __init__(self, source: Any, *, device: torch.device) -> None:
        self.source = source
        self._host = torch.as_tensor(source)
        self.here = self._host.to(device, copy=True)

    def refresh(self) -> Array:
        """Copy it anew, into the same place."""
        return self.here.copy_(self._host)


class DeviceArrays:
    """Arrays on one device, by torch."""

    is_immediate = False

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._side = torch.cuda.Stream(device) if device.type == "cuda" else None

    def mirror(self, values: Any) -> Mirror:
        """The same memory, or a copy of what the engine keeps in host memory."""
        if isinstance(values, torch.Tensor) and values.device == self.device:
            return SameMemory(values)
        return HostMirror(values, device=self.device)

    def whole(self, values: Any) -> Array:
        """Whole numbers as ``int64[n]``."""
        return torch.as_tensor(values, dtype=torch.int64, device=self.device)

    def zeros(self, *shape: int) -> Array:
        """``int64`` zeros."""
        return torch.zeros(shape, dtype=torch.int64, device=self.device)

    def as_bytes(self, buffer: Any) -> Array:
        """A buffer as ``uint8[slots, bytes]``, the same memory."""
        if not buffer.is_contiguous():
            raise ConfigError(
                "a KV buffer does not lie in one piece, so that its slots cannot be seen as bytes",
                hint="let kv_groups() name contiguous buffers, slots first",
            )
        return buffer.view(len(buffer), -1).view(torch.uint8)

    def words(self, buffer: Any, *, limit: int | None) -> Words:
        """A buffer as words."""
        return DeviceWords(self.as_bytes(buffer), limit=limit)

    def take(self, values: Array, indices: Array) -> Array:
        """``values[indices]``."""
        return values.index_select(0, indices)

    def put(self, values: Array, indices: Array, new: Array) -> None:
        """``values[indices] = new``."""
        values.index_copy_(0, indices, new)

    def block(self, matrix: Array, rows: Array, first: int, last: int) -> Array:
        """Columns of some rows."""
        return matrix[:, first:last].index_select(0, rows).flatten()

    def repeat(self, values: Array, counts: Array) -> Array:
        """Each value as often as its count says."""
        return values.repeat_interleave(counts)

    def arange(self, count: int) -> Array:
        """0, 1, 2, ..."""
        return torch.arange(count, device=self.device)

    def folded_sum(self, words: Array, weights: Array) -> Array:
        """The weighted sum of each row."""
        folded = words >> 32
        folded ^= words
        folded *= weights
        return folded.sum(1)

    def where(self, mask: Array) -> list[int]:
        """Indices of what is true."""
        indices: list[int] = mask.nonzero().flatten().tolist()
        return indices

    def total(self, values: Array) -> Array | int:
        """The sum of a few values."""
        return values.sum()

    def flip(self, content: Array, slot: int, at: int, bits: int) -> None:
        """Flip bits of a byte."""
        # Engines make their buffers in inference mode, in which alone they may be changed.
        with torch.inference_mode():
            content[slot, at] ^= bits

    def choose(self, mask: Array, one: Array, other: Array | int) -> Array:
        """``one`` or ``other``."""
        return torch.where(mask, one, other)

    def flag(self, masks: Sequence[Array]) -> Flag:
        """Whether any mask is true anywhere."""
        return DeviceFlag(torch.stack([mask.any() for mask in masks]).any())

    @contextlib.contextmanager
    def beside(self) -> Iterator[None]:
        """Run in a stream of its own, behind what the engine has launched so far."""
        if self._side is None:
            yield
            return
        self._side.wait_stream(torch.cuda.current_stream(self.device))
        with torch.cuda.stream(self._side):
            yield

    def join(self) -> None:
        """Let what the engine launches now wait for it."""
        if self._side is not None:
            torch.cuda.current_stream(self.device).wait_stream(self._side)
