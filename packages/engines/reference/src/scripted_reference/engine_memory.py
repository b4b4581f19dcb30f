"""All memory of one engine in one place, and what is done across its parts."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from scripted_reference.args import ServerArgs
from scripted_reference.holds import MemoryHolds, PageHolds
from scripted_reference.hybrid_memory import HybridTokenAllocator, WindowStorage
from scripted_reference.memory import PagedTokenAllocator, ReqToTokenPool, TokenToKVPool
from scripted_reference.radix import RadixCache
from scripted_reference.request import Req
from scripted_reference.swa_radix import SwaRadixCache
from scripted_reference.window_budget import WindowBudget


class WindowPool:
    """The window pool of a hybrid engine.

    Attributes:
        length: tokens that a sliding-window layer sees, the newest one included.
        allocator: of both pools; its `swa_attn_allocator` has this pool's free list.
        tree_cache: the prefix tree, which has slots of both.
        holds: pages of this pool that somebody outside the scheduler holds.
    """

    def __init__(
        self, *, length: int, allocator: HybridTokenAllocator, tree_cache: SwaRadixCache
    ) -> None:
        self.length = length
        self.allocator = allocator
        self.tree_cache = tree_cache
        self.holds = PageHolds(allocator.swa_attn_allocator)


class EngineMemory:
    """The pools, the prefix tree over them and what is held from outside.

    Attributes:
        allocator: hands out the slots of `kv_pool`.
        rows: hands out request rows, and maps positions to slots.
        tree_cache: the prefix tree.
        holds: pages and rows that somebody outside the scheduler holds.
        window: the window pool, of a model with sliding-window layers that has one of its own.
        window_storage: where the sliding-window layers keep their KV, if there are such.
    """

    def __init__(self, args: ServerArgs, *, sliding_window: int | None = None) -> None:
        page_size = args.page_size
        self.rows = ReqToTokenPool(
            size=args.max_running_requests, max_context_len=args.context_length
        )
        self.allocator: PagedTokenAllocator
        self.tree_cache: RadixCache
        self.window: WindowPool | None = None
        if sliding_window is None or args.disable_hybrid_swa_memory:
            self.allocator = PagedTokenAllocator(size=args.max_total_tokens, page_size=page_size)
            self.tree_cache = RadixCache(
                req_to_token_pool=self.rows,
                token_to_kv_pool_allocator=self.allocator,
                page_size=page_size,
                disable=args.disable_radix_cache,
            )
        else:
            self.window = self._make_window(args, sliding_window)
            self.allocator, self.tree_cache = self.window.allocator, self.window.tree_cache
        self.kv_pool = TokenToKVPool(size=self.allocator.size, page_size=page_size)
        self.window_storage = self._window_storage(sliding_window)
        self.holds = MemoryHolds(allocator=self.allocator, rows=self.rows)

    def _make_window(self, args: ServerArgs, length: int) -> WindowPool:
        page_size = args.page_size
        allocator = HybridTokenAllocator(
            size=args.max_total_tokens,
            window_size=args.window_pool_tokens(length),
            page_size=page_size,
        )
        tree = SwaRadixCache(
            req_to_token_pool=self.rows,
            token_to_kv_pool_allocator=allocator,
            window=length,
            page_size=page_size,
            disable=args.disable_radix_cache,
        )
        return WindowPool(length=length, allocator=allocator, tree_cache=tree)

    def _window_storage(self, length: int | None) -> WindowStorage | None:
        if length is None:
            return None
        page_size = self.allocator.page_size
        if self.window is None:
            size = self.allocator.size
            mapping = np.arange(size + page_size, dtype=np.int64)
        else:
            size = self.window.allocator.swa_attn_allocator.size
            mapping = self.window.allocator.full_to_swa_index_mapping
        return WindowStorage(length, mapping, TokenToKVPool(size=size, page_size=page_size))

    def tokens_for_one(self, chunk_tokens: int | None) -> int:
        """Return how many tokens a request can have slots for, alone on an empty engine.

        Without chunks its whole prompt takes window slots at once; so does its output, once retracted.
        """
        if self.window is None or chunk_tokens is not None:
            return self.allocator.size
        return min(self.allocator.size, self.window.allocator.swa_attn_allocator.size)

    def evict_until(self, need_tokens: int) -> bool:
        """Evict from the tree if need be; return whether `need_tokens` are free then, in each pool."""
        missing = need_tokens - self.allocator.available_size()
        if missing > 0:
            self.tree_cache.evict(missing)
            if self.allocator.available_size() < need_tokens:
                return False
        return self.window is None or self._evict_window_until(self.window, need_tokens)

    def _evict_window_until(self, window: WindowPool, need_tokens: int) -> bool:
        window.tree_cache.evict_window(need_tokens - window.allocator.swa_available_size())
        return window.allocator.swa_available_size() >= need_tokens

    def leave_window(self, reqs: Sequence[Req]) -> None:
        """Give back the window slots that these requests have no more use for."""
        if self.window is None or not reqs:
            return
        left = np.concatenate([self.window.tree_cache.leave_window(req) for req in reqs])
        if len(left):
            self.window.allocator.free_window(left)

    def window_budget(self, running: Sequence[Req]) -> WindowBudget | None:
        """Return what a prefill batch may take of the window pool; `None` where there is none."""
        if self.window is None:
            return None
        return WindowBudget(
            tree_cache=self.window.tree_cache, allocator=self.window.allocator, running=running
        )

    def release(self, req: Req, *, keep: bool) -> None:
        """Take back a request's KV and row; with `keep` the KV goes to the prefix tree."""
        assert req.req_pool_idx is not None, f"{req!r} has no memory"
        self.tree_cache.cache_finished_req(req, is_insert=keep)
        self.rows.free(req.req_pool_idx)
        req.forget_memory()

    def reset_if_unlocked(self) -> bool:
        """Empty the tree and hand memory out as a new engine would; `False` if something is locked."""
        if self.tree_cache.protected_size():
            return False
        self.tree_cache.reset()
        self.allocator.sort_free()
        self.rows.sort_free()
        return True

    def describe(self) -> str:
        """Return where the KV pools have gone, for a message."""
        tree, allocator = self.tree_cache, self.allocator
        text = (
            f"{allocator.available_size()} of {allocator.size} tokens free, "
            f"{tree.evictable_size()} evictable and {tree.protected_size()} locked in the prefix "
            f"tree, {self.holds.page_count * allocator.page_size} held"
        )
        if self.window is None:
            return text
        window, tree = self.window, self.window.tree_cache
        pool = window.allocator.swa_attn_allocator
        return (
            f"{text}; of the window pool {pool.available_size()} of {pool.size} tokens free, "
            f"{tree.swa_evictable_size()} evictable and {tree.swa_protected_size()} locked, "
            f"{window.holds.count * pool.page_size} held"
        )
