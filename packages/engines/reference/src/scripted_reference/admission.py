"""Which waiting requests the coming prefill batch takes in, and how much of each it computes."""

from __future__ import annotations

import math
from collections.abc import Sequence

from scripted_reference.memory import PagedTokenAllocator, paged_growth
from scripted_reference.radix import RadixCache
from scripted_reference.request import Req
from scripted_reference.window_budget import WindowBudget


class PrefillAdder:
    """The budgets of one prefill batch, spent request by request.

    Memory counts what is free and what the prefix tree would give up. A request is admitted if the pool
    can hold its whole remaining life next to what is reserved for the running requests; so the first
    one is always admitted to an empty engine. At most one request leaves the batch incomplete.

    Attributes:
        can_run_list: the admitted requests, in batch order; their paths in the tree are locked.
        chunked_req: the one whose prompt will not be complete after the batch.
    """

    def __init__(
        self,
        *,
        tree_cache: RadixCache,
        allocator: PagedTokenAllocator,
        running: Sequence[Req],
        new_token_ratio: float,
        max_prefill_tokens: int,
        chunk_tokens: int | None,
        window: WindowBudget | None = None,
    ) -> None:
        self._tree_cache = tree_cache
        self._allocator = allocator
        self._page_size = allocator.page_size
        self._rem_input_tokens = max_prefill_tokens
        self._rem_chunk_tokens = chunk_tokens
        self._window = window
        self._taken_tokens = 0
        self._reserved_tokens = sum(self._future(req, new_token_ratio) for req in running)
        self.can_run_list: list[Req] = []
        self.chunked_req: Req | None = None

    @property
    def free_now(self) -> int:
        """Tokens that this batch can still write."""
        cache = self._tree_cache
        return self._allocator.available_size() + cache.evictable_size() - self._taken_tokens

    @property
    def free_for_life(self) -> int:
        """Tokens that a newcomer can still count on until its end."""
        return self.free_now - self._reserved_tokens

    def add_chunked_req(self, req: Req) -> bool:
        """Add the next chunk of the request that is part way through its prompt.

        Returns `False` when the pool cannot hold that chunk now: the request is parked, and its turn
        comes when somebody gave memory back.
        """
        start = req.kv_committed_len
        remaining = len(req.fill_ids) - start
        chunk = self._fit_into_chunk(remaining)
        growth = self._growth(start, start + chunk)
        if growth > self.free_now:
            return False
        if self._window is not None and growth > self._window.free_now:
            return False
        req.extend_input_len = chunk
        self._add(req, start, is_last=chunk == remaining)
        return True

    def add_one_req(self, req: Req) -> bool:
        """Admit a waiting request, or its first chunk; `False` when a budget is used up."""
        req.init_next_round_input()
        prefix, last_node = self._tree_cache.match_prefix(
            req.fill_ids[: req.reusable_len], extra_key=req.lora_path
        )
        start = len(prefix)
        remaining = len(req.fill_ids) - start
        life = self._growth(start, req.seq_len + req.remaining_kv_len)
        if life > self.free_for_life:
            return False
        chunk = self._fit_into_chunk(remaining)
        if chunk == 0 or (self.can_run_list and chunk > self._rem_input_tokens):
            return False
        # Once the prefix is locked the tree can give up less: look again.
        self._tree_cache.move_lock(req, last_node)
        computed = self._growth(start, start + chunk)
        if life > self.free_for_life or not self._window_has_room(computed):
            self._tree_cache.move_lock(req, None)
            return False
        req.prefix_indices = prefix
        req.extend_input_len = chunk
        self._add(req, start, is_last=chunk == remaining)
        return True

    def _add(self, req: Req, start: int, *, is_last: bool) -> None:
        computed = self._growth(start, start + req.extend_input_len)
        self.can_run_list.append(req)
        self._taken_tokens += computed
        self._rem_input_tokens -= computed
        if self._rem_chunk_tokens is not None:
            self._rem_chunk_tokens -= computed
        if self._window is not None:
            self._window.take(computed, req, is_last=is_last)
        if is_last:
            self._reserved_tokens += self._growth(req.seq_len, req.seq_len + req.remaining_kv_len)
        else:
            self.chunked_req = req

    def _window_has_room(self, computed: int) -> bool:
        return self._window is None or computed <= self._window.free_for_newcomers

    def _fit_into_chunk(self, remaining: int) -> int:
        # Chunks and what is taken from them are whole pages, so that what is left is, too.
        return (
            remaining if self._rem_chunk_tokens is None else min(remaining, self._rem_chunk_tokens)
        )

    def _future(self, req: Req, ratio: float) -> int:
        start = req.kv_committed_len
        rest = math.ceil((req.seq_len + req.remaining_kv_len - start) * ratio)
        return self._growth(start, start + rest)

    def _growth(self, start: int, end: int) -> int:
        return paged_growth(start, end, self._page_size)
