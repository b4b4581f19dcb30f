"""All memory of one engine in one place, and the two things done across its parts."""

from __future__ import annotations

from scripted_reference.args import ServerArgs
from scripted_reference.holds import MemoryHolds
from scripted_reference.memory import PagedTokenAllocator, ReqToTokenPool, TokenToKVPool
from scripted_reference.radix import RadixCache
from scripted_reference.request import Req


class EngineMemory:
    """The pools, the prefix tree over them and what is held from outside.

    Attributes:
        allocator: hands out the slots of `kv_pool`.
        rows: hands out request rows, and maps positions to slots.
        tree_cache: the prefix tree.
        holds: pages and rows that somebody outside the scheduler holds.
    """

    def __init__(self, args: ServerArgs) -> None:
        self.allocator = PagedTokenAllocator(size=args.max_total_tokens, page_size=args.page_size)
        self.kv_pool = TokenToKVPool(size=self.allocator.size, page_size=args.page_size)
        self.rows = ReqToTokenPool(
            size=args.max_running_requests, max_context_len=args.context_length
        )
        self.tree_cache = RadixCache(
            req_to_token_pool=self.rows,
            token_to_kv_pool_allocator=self.allocator,
            page_size=args.page_size,
            disable=args.disable_radix_cache,
        )
        self.holds = MemoryHolds(allocator=self.allocator, rows=self.rows)

    def evict_until(self, need_tokens: int) -> bool:
        """Evict from the tree if need be; return whether `need_tokens` are free then."""
        missing = need_tokens - self.allocator.available_size()
        if missing <= 0:
            return True
        self.tree_cache.evict(missing)
        return self.allocator.available_size() >= need_tokens

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
        """Return where the KV pool has gone, for a message."""
        tree = self.tree_cache
        return (
            f"{self.allocator.available_size()} of {self.allocator.size} tokens free, "
            f"{tree.evictable_size()} evictable and {tree.protected_size()} locked in the prefix "
            f"tree, {self.holds.page_count * self.allocator.page_size} held"
        )
