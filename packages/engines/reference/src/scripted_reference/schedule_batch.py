"""One batch: the requests that go through the model together, and the arrays it reads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Final

import numpy as np

from scripted_reference.errors import OutOfSlotsError
from scripted_reference.memory import IntArray, PagedTokenAllocator, ReqToTokenPool, paged_growth
from scripted_reference.request import Req


class ForwardMode(StrEnum):
    """What a batch does. `MIXED` and `IDLE` are the field's words; this engine runs neither yet."""

    EXTEND = "extend"
    DECODE = "decode"
    MIXED = "mixed"
    IDLE = "idle"

    def is_extend(self) -> bool:
        """Whether prompt tokens are computed."""
        return self is ForwardMode.EXTEND or self is ForwardMode.MIXED

    def is_decode(self) -> bool:
        """Whether each request computes one token."""
        return self is ForwardMode.DECODE

    def is_mixed(self) -> bool:
        """Whether both happen in one batch."""
        return self is ForwardMode.MIXED

    def is_idle(self) -> bool:
        """Whether nothing is computed."""
        return self is ForwardMode.IDLE


_EMPTY: Final[IntArray] = np.empty(0, dtype=np.int64)


class ScheduleBatch:
    """Requests and what the model needs to know of them.

    `reqs` does not change after construction: requests that join or leave make a new batch, so that
    whoever keeps a batch keeps what really ran.

    Attributes:
        reqs: the requests, in batch order.
        forward_mode: extend or decode.
        chunked_req: the request whose prompt is not complete after this batch, if there is one.
        prefix_lens: of an extend batch, where each request starts computing.
        extend_lens: of an extend batch, how many tokens each computes.
        rows: `int64[batch]`, the row of each request.
        seq_lens: `int64[batch]`, the length of each context once this batch has run.
        max_seq_len: the largest of them.
        input_ids: `int64[tokens]`, what is computed, request after request.
        out_cache_loc: `int64[tokens]`, the slot that each of them is written to.
    """

    __slots__ = (
        "chunked_req",
        "extend_lens",
        "forward_mode",
        "input_ids",
        "max_seq_len",
        "out_cache_loc",
        "prefix_lens",
        "reqs",
        "rows",
        "seq_lens",
    )

    def __init__(
        self,
        reqs: Sequence[Req],
        forward_mode: ForwardMode,
        *,
        chunked_req: Req | None = None,
    ) -> None:
        self.reqs: list[Req] = list(reqs)
        self.forward_mode = forward_mode
        self.chunked_req = chunked_req
        self.prefix_lens: list[int] = []
        self.extend_lens: list[int] = []
        self.rows: IntArray = _EMPTY
        self.seq_lens: IntArray = _EMPTY
        self.max_seq_len = 0
        self.input_ids: IntArray = _EMPTY
        self.out_cache_loc: IntArray = _EMPTY

    def batch_size(self) -> int:
        """Return the number of requests."""
        return len(self.reqs)

    def is_empty(self) -> bool:
        """Return whether there is no request in it."""
        return not self.reqs

    def prepare_for_extend(self, *, rows: ReqToTokenPool, allocator: PagedTokenAllocator) -> None:
        """Give each request a row and the slots for what it computes, and fill in the arrays.

        Raises `OutOfSlotsError` when there are too few; making sure of them is the admission's task.
        """
        inputs: list[int] = []
        locs: list[IntArray] = []
        for req in self.reqs:
            row = _ensure_row(req, rows)
            start = req.kv_committed_len
            end = start + req.extend_input_len
            last_loc = int(row[start - 1]) if start else -1
            taken = allocator.alloc_extend(prefix_len=start, seq_len=end, last_loc=last_loc)
            if taken is None:
                raise OutOfSlotsError(
                    f"{req!r} was admitted to compute {end - start} tokens, "
                    f"but only {allocator.available_size()} slots are free"
                )
            row[start:end] = taken
            req.kv_allocated_len = req.kv_committed_len = end
            self.prefix_lens.append(start)
            self.extend_lens.append(end - start)
            inputs.extend(req.fill_ids[start:end])
            locs.append(taken)
        self._index()
        self.seq_lens = np.array([req.kv_allocated_len for req in self.reqs], dtype=np.int64)
        self.max_seq_len = max(req.kv_allocated_len for req in self.reqs)
        self.input_ids = np.array(inputs, dtype=np.int64)
        self.out_cache_loc = np.concatenate(locs)

    @property
    def is_indexed(self) -> bool:
        """Whether the arrays of the last decode are there, for the next one to advance."""
        return len(self.rows) > 0

    def index_for_decode(self, *, unprocessed: Mapping[Req, int]) -> None:
        """Fill in the arrays before the first decode.

        `unprocessed` has the newest token of those requests whose result is still in flight.
        """
        self._index()
        self.seq_lens = np.array([req.kv_committed_len for req in self.reqs], dtype=np.int64)
        self.max_seq_len = max(req.kv_committed_len for req in self.reqs)
        self.input_ids = np.array(
            [unprocessed[req] if req in unprocessed else req.output_ids[-1] for req in self.reqs],
            dtype=np.int64,
        )

    def prepare_for_decode(self, *, rows: ReqToTokenPool, allocator: PagedTokenAllocator) -> None:
        """Give each request the slot for its newest token, and advance the arrays by one.

        The arrays are those of `index_for_decode`, or of the decode before; its result has to be in
        `input_ids`. Raises `OutOfSlotsError` when there are too few slots.
        """
        table = rows.req_to_token
        before = self.seq_lens
        seq_lens = before + 1
        last_locs = None if allocator.page_size == 1 else table[self.rows, before - 1]
        locs = allocator.alloc_decode(seq_lens=seq_lens, last_locs=last_locs)
        if locs is None:
            raise OutOfSlotsError(
                f"{len(self.reqs)} requests decode, "
                f"but only {allocator.available_size()} slots are free"
            )
        table[self.rows, before] = locs
        for req in self.reqs:
            req.kv_allocated_len += 1
            req.kv_committed_len += 1
        self.seq_lens = seq_lens
        self.max_seq_len += 1
        self.out_cache_loc = locs

    def extend_tokens_needed(self, page_size: int) -> int:
        """Return how many tokens' worth of new pages this extend batch takes, before it is prepared."""
        return sum(
            paged_growth(start, start + req.extend_input_len, page_size)
            for req in self.reqs
            for start in (
                len(req.prefix_indices) if req.req_pool_idx is None else req.kv_committed_len,
            )
        )

    def decode_tokens_needed(self, page_size: int) -> int:
        """Return how many tokens' worth of new pages the next decode of this batch takes."""
        if page_size == 1:
            return len(self.reqs)
        return page_size * sum(req.kv_allocated_len % page_size == 0 for req in self.reqs)

    def _index(self) -> None:
        self.rows = np.array([req.req_pool_idx for req in self.reqs], dtype=np.int64)

    def __repr__(self) -> str:
        rids = ", ".join(req.rid for req in self.reqs)
        return f"ScheduleBatch({self.forward_mode.value}: {rids or 'empty'})"


def _ensure_row(req: Req, rows: ReqToTokenPool) -> IntArray:
    """Return the request's row; a request without one gets one, with its prefix filled in."""
    if req.req_pool_idx is None:
        taken = rows.alloc(1)
        if taken is None:
            raise OutOfSlotsError(f"{req!r} was admitted, but no request row is free")
        req.req_pool_idx = taken[0]
        prefix = req.prefix_indices
        rows.req_to_token[req.req_pool_idx, : len(prefix)] = prefix
        req.cache_protected_len = req.kv_committed_len = req.kv_allocated_len = len(prefix)
    row: IntArray = rows.req_to_token[req.req_pool_idx]
    return row
