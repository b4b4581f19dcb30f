"""The bulk operations of a canary on a GPU, as few kernels: nine for a decode step instead of fifty.

Each kernel takes the device some µs whatever it does, and those behind a forward hold up the next one.
They do what ``ArrayWork`` does, and give the same results bit by bit.
"""

from __future__ import annotations

import contextlib
import importlib.util
from collections.abc import Sequence
from typing import Any, Final

import torch
from scripted_core.logs import get_logger

from scripted_canary.arrays import Array, Arrays, Flag
from scripted_canary.device_arrays import DeviceFlag, DeviceWords
from scripted_canary.shadow import SlotShadow
from scripted_canary.truth import RowTruth
from scripted_canary.work import Fed, ForwardWork, Reads, Tokens

_log = get_logger("scripted.canary")
_TOKENS: Final = 128
_COLUMNS: Final = 512
_SLOTS: Final = 64
_WORDS_AT_ONCE: Final = 64
_NO_WINDOW: Final = 1 << 40


class TritonWork:
    """The bulk operations over one table, on one device."""

    def __init__(self, *, table: Any, truth: RowTruth, device: torch.device) -> None:
        from scripted_canary import triton_kernels

        self._kernels = triton_kernels
        self._table = table
        self._truth = truth
        self._device = device
        self.verified: Array = self._zeros(torch.int64)
        self._flag = self._zeros(torch.int32)
        self._launch(triton_kernels.probe, (1,), self._zeros(torch.int32))

    def look_up(self, tokens: Tokens) -> Fed:
        """Compare what is fed, and where it goes, with the requests and the table."""
        self._flag = self._zeros(torch.int32)
        count, truth_heads = len(tokens.ids), self._truth.heads
        heads, expected, table_slots = (self._empty(count) for _ in range(3))
        wrong_tokens, wrong_places = (self._empty(count, torch.bool) for _ in range(2))
        self._launch(
            self._kernels.look_up, (_blocks(count, _TOKENS),),
            tokens.of, tokens.positions, tokens.ids, tokens.slots,
            self._table, self._table.stride(0), self._table.stride(1),
            truth_heads, truth_heads.stride(0),
            heads, expected, table_slots, wrong_tokens, wrong_places, self._flag, count,
            BLOCK=_TOKENS,
        )  # fmt: skip
        return Fed(
            tokens=tokens,
            heads=heads,
            expected=expected,
            table_slots=table_slots,
            wrong_tokens=wrong_tokens,
            wrong_places=wrong_places,
        )

    def read(self, shadow: SlotShadow, tokens: Tokens, *, longest: int) -> Reads:
        """Compare the slots that a forward reads with what they were written for."""
        rows, requests = tokens.rows, len(tokens.rows)
        count = requests * longest
        grid = (requests, _blocks(longest, _COLUMNS))
        slots, mapping, window = self._empty(count), shadow.mapping, shadow.view.window
        self._launch(
            self._kernels.locate, grid,
            rows, tokens.starts, self._table, self._table.stride(0), self._table.stride(1),
            0 if mapping is None else len(mapping), rows if mapping is None else mapping,
            slots, self.verified, longest, _NO_WINDOW if window is None else window,
            HAS_MAPPING=mapping is not None, BLOCK=_COLUMNS,
        )  # fmt: skip
        hashes = self._hashes(shadow, slots)
        wrong, chains = self._empty(count, torch.bool), self._truth.chains
        expected, sums = (self._empty(count) for _ in range(2))
        self._launch(
            self._kernels.compare, grid,
            rows, slots, chains, chains.stride(0), shadow.sums,
            slots if hashes is None else hashes, shadow.num_slots,
            wrong, expected, sums, self._flag, longest,
            HAS_HASHES=hashes is not None, BLOCK=_COLUMNS,
        )  # fmt: skip
        return Reads(wrong=wrong, slots=slots, expected=expected, sums=sums, hashes=hashes)

    def record(self, shadows: Sequence[SlotShadow], fed: Fed) -> None:
        """Take in the slots that a forward has written."""
        tokens, chains = fed.tokens, self._truth.chains
        count = len(tokens.ids)
        for shadow in shadows:
            slots = shadow.own(tokens.slots)
            hashes = self._hashes(shadow, slots)
            self._launch(
                self._kernels.record, (_blocks(count, _TOKENS),),
                tokens.of, tokens.positions, slots, fed.heads, fed.expected,
                chains, chains.stride(0), slots if hashes is None else hashes,
                shadow.heads, shadow.chains, shadow.sums, shadow.num_slots, count,
                HAS_HASHES=hashes is not None, BLOCK=_TOKENS,
            )  # fmt: skip

    def chosen(self, fed: Fed, counts: Array | None, next_ids: Array) -> None:
        """Take in the token that a forward has chosen for each request."""
        starts, rows, truth = fed.tokens.starts, fed.tokens.rows, self._truth
        count = len(rows)
        self._launch(
            self._kernels.choose, (_blocks(count, _TOKENS),),
            rows, starts if counts is None else starts + counts, 1 if counts is None else 0,
            next_ids, truth.heads, truth.heads.stride(0), truth.chains, truth.chains.stride(0),
            count, BLOCK=_TOKENS,
        )  # fmt: skip

    def flag(self, masks: Sequence[Array]) -> Flag:
        """Whether anything is wrong: known already, since the masks were made here."""
        return DeviceFlag(self._flag)

    def _launch(
        self, kernel: Any, grid: tuple[int, ...], *arguments: Any, **constants: Any
    ) -> None:
        """On this device: triton launches on the current one, which may be another engine's."""
        is_gpu = self._device.type == "cuda"
        with torch.cuda.device(self._device) if is_gpu else contextlib.nullcontext():
            kernel[grid](*arguments, **constants)

    def _hashes(self, shadow: SlotShadow, slots: Any) -> Any | None:
        if not shadow.hashes_data:
            return None
        hashes = self._empty(len(slots))
        for index, (words, weights) in enumerate(shadow.byte_hash.parts):
            assert isinstance(words, DeviceWords), "they lie where the slots do"
            at_once = min(_power_of_two(words.count), _WORDS_AT_ONCE)
            self._launch(
                self._kernels.add_hash, (_blocks(len(slots), _SLOTS),),
                slots, words.values, words.values.stride(0), weights, hashes, len(slots),
                shadow.num_slots, NUM_WORDS=words.count,
                IS_FIRST=index == 0, BLOCK=_SLOTS, WORDS=at_once,
            )  # fmt: skip
        return hashes

    def _empty(self, count: int, kind: torch.dtype = torch.int64) -> Any:
        return torch.empty(count, dtype=kind, device=self._device)

    def _zeros(self, kind: torch.dtype) -> Any:
        return torch.zeros((), dtype=kind, device=self._device)


def triton_work(*, table: Array, truth: RowTruth, arrays: Arrays) -> ForwardWork | None:
    """The work by triton; ``None`` where there is none, or where it does not work."""
    if table.device.type != "cuda" or importlib.util.find_spec("triton") is None:
        return None
    try:
        return TritonWork(table=table, truth=truth, device=table.device)
    except Exception as error:  # triton wants a C compiler, and says so in many ways
        _log.warning(
            "triton does not work here: the canary takes several times as long",
            error=f"{type(error).__name__}: {error}"[:200],
        )
        return None


def _blocks(count: int, size: int) -> int:
    return max(-(-count // size), 1)


def _power_of_two(count: int) -> int:
    return 1 << (count - 1).bit_length()
