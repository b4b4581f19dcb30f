"""What a prefill batch may take of the window pool."""

from __future__ import annotations

from collections.abc import Sequence

from scripted_reference.hybrid_memory import HybridTokenAllocator
from scripted_reference.memory import paged_growth
from scripted_reference.request import Req
from scripted_reference.swa_radix import SwaRadixCache


class WindowBudget:
    """The window slots of one prefill batch, spent request by request.

    A newcomer has to find room for its next chunk beside what the running requests still need until
    their windows are full. The chunks after that have to find theirs when their turn comes: a window
    gives back what has left it, so it is not known now how much there will be.
    """

    def __init__(
        self, *, tree_cache: SwaRadixCache, allocator: HybridTokenAllocator, running: Sequence[Req]
    ) -> None:
        self._tree_cache = tree_cache
        self._allocator = allocator
        self._page_size = allocator.page_size
        self._full_window = self._growth(0, tree_cache.reach) + self._page_size
        self._taken_tokens = 0
        self._reserved_tokens = sum(map(self._future, running))

    @property
    def free_now(self) -> int:
        """Tokens that this batch can still write."""
        available = self._allocator.swa_available_size() + self._tree_cache.swa_evictable_size()
        return available - self._taken_tokens

    @property
    def free_for_newcomers(self) -> int:
        """The same, without what is left to the running requests."""
        return self.free_now - self._reserved_tokens

    def take(self, computed: int, req: Req, *, is_last: bool) -> None:
        """Spend what a request computes, and reserve what it comes to need when it decodes."""
        self._taken_tokens += computed
        if is_last:
            life = self._growth(req.seq_len, req.seq_len + req.remaining_kv_len)
            self._reserved_tokens += min(life, self._full_window)

    def _future(self, req: Req) -> int:
        start = req.kv_committed_len
        life = self._growth(start, max(req.seq_len + req.remaining_kv_len, start))
        has = req.kv_allocated_len - max(req.cache_protected_len, req.swa_evicted_len)
        return min(life, max(self._full_window - has, 0))

    def _growth(self, start: int, end: int) -> int:
        return paged_growth(start, end, self._page_size)
