"""The prefix tree over a full and a window pool.

A node keeps the full slots of its tokens for as long as it is there; their window slots may be given up
before, since only the last tokens of a prefix have to be seen by who goes on from it. So a prefix is of
use up to a length at which all of the window before it is still there. Which slots those are is read
from the allocator's mapping, the one place where it is written down. There are two locks, as in SGLang:
`lock_ref` keeps a path in the tree, and `swa_lock_ref` the window slots at the end of it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from scripted_reference.errors import LockRefError
from scripted_reference.hybrid_memory import HybridTokenAllocator
from scripted_reference.memory import IntArray, ReqToTokenPool
from scripted_reference.radix import MatchResult, RadixCache
from scripted_reference.request import Req
from scripted_reference.tree_node import NO_SLOTS, TreeNode


class SwaRadixCache(RadixCache):
    """A prefix tree whose nodes may have lost their window slots.

    `window` is how many tokens a sliding-window layer sees, the newest one included.
    """

    def __init__(
        self,
        *,
        req_to_token_pool: ReqToTokenPool,
        token_to_kv_pool_allocator: HybridTokenAllocator,
        window: int,
        page_size: int = 1,
        disable: bool = False,
    ) -> None:
        self._allocator = token_to_kv_pool_allocator
        self._mapping = token_to_kv_pool_allocator.full_to_swa_index_mapping
        # The token that comes next sees itself, and so many before it.
        self.reach = window - 1
        super().__init__(
            req_to_token_pool=req_to_token_pool,
            token_to_kv_pool_allocator=token_to_kv_pool_allocator,
            page_size=page_size,
            disable=disable,
        )

    def _clear(self) -> None:
        super()._clear()
        self._swa_evictable_size = 0
        self._swa_protected_size = 0

    def swa_evictable_size(self) -> int:
        """Return how many window slots of the tree nobody needs."""
        return self._swa_evictable_size

    def swa_protected_size(self) -> int:
        """Return how many window slots of the tree are locked."""
        return self._swa_protected_size

    # --- prefixes

    def match_prefix(
        self, token_ids: Sequence[int], *, extra_key: str | None = None
    ) -> MatchResult:
        """Return the longest cached prefix to go on from: its last tokens have window slots."""
        found = super().match_prefix(token_ids, extra_key=extra_key)
        usable = self.usable_len(found.indices)
        if usable == len(found.indices):
            return found
        return super().match_prefix(token_ids[:usable], extra_key=extra_key)

    def usable_len(self, indices: IntArray) -> int:
        """Return how much of a prefix, by its full slots, has all of the window before its end."""
        total = len(indices)
        present = self._mapping[indices] != 0
        if present[max(total - self.reach, 0) :].all():
            return total
        ends = np.arange(1, total + 1)
        last_absent = np.maximum.accumulate(np.where(present, -1, ends - 1))
        usable = ends[(last_absent < ends - self.reach) & (ends % self.page_size == 0)]
        return int(usable[-1]) if len(usable) else 0

    # --- locks

    def lock_window(self, node: TreeNode) -> int:
        """Lock the window slots that the token after this node sees; return where they begin.

        A node that the window begins in is cut, so that no more than the window, in whole pages, is
        kept. Give node and beginning to `unlock_window`.
        """
        start = self._page_floor(max(self._depth(node) - self.reach, 0))
        self._cut(node, start)
        for step in self._upwards(node, start):
            if step.swa_lock_ref == 0:
                self._swa_evictable_size -= step.swa_count
                self._swa_protected_size += step.swa_count
            step.swa_lock_ref += 1
        return start

    def unlock_window(self, node: TreeNode, start: int) -> None:
        """Undo one `lock_window`; `LockRefError` at a node that is not locked."""
        for step in self._upwards(node, start):
            if step.swa_lock_ref <= 0:
                raise LockRefError(f"the window of {step!r} was unlocked more often than locked")
            step.swa_lock_ref -= 1
            if step.swa_lock_ref == 0:
                self._swa_evictable_size += step.swa_count
                self._swa_protected_size -= step.swa_count

    def move_lock(self, req: Req, node: TreeNode | None) -> None:
        """Lock path and window of the new end of a request's prefix, then unlock those of the old."""
        before, start_before = req.last_node, req.swa_lock_start
        start = None if node is None else self.lock_window(node)
        super().move_lock(req, node)
        if before is not None and start_before is not None:
            self.unlock_window(before, start_before)
        req.swa_lock_start = start

    # --- what leaves the window

    def leave_window(self, req: Req) -> IntArray:
        """Let go of the window slots that no token still to come of this request will see.

        Those that belong to the tree are unlocked once none of them is seen. Returns the full slots of
        its own, one a page, whose window slots the caller has to free.
        """
        seen_from = self._page_floor(req.kv_committed_len - self.reach)
        if seen_from <= req.swa_evicted_len:
            return NO_SLOTS
        if req.swa_lock_start is not None and seen_from >= req.cache_protected_len:
            assert req.last_node is not None, f"{req!r} has locked a window in no node"
            self.unlock_window(req.last_node, req.swa_lock_start)
            req.swa_lock_start = None
        begin = max(req.cache_protected_len, req.swa_evicted_len)
        req.swa_evicted_len = seen_from
        return self._row(req)[begin : seen_from : self.page_size]

    def evict_window(self, num_tokens: int) -> int:
        """Give up unlocked window slots, of the least recently used nodes first; return how many.

        Whole nodes lose theirs, so it can be more; it is less when no more is unlocked.
        The nodes stay: their full slots are still there for a request that computes the window anew.
        """
        if num_tokens <= 0 or self._swa_evictable_size == 0:
            return 0
        nodes = [node for node in self.nodes() if node.swa_count and node.swa_lock_ref == 0]
        evicted = 0
        for node in sorted(nodes, key=lambda node: (node.last_access_time, node.id)):
            if evicted >= num_tokens:
                break
            starts = node.value[:: self.page_size]
            self._allocator.free_window(starts[self._mapping[starts] != 0])
            evicted += node.swa_count
            self._count(node, 0)
        return evicted

    # --- the tree itself

    def _free_duplicates(self, req: Req, tokens: Sequence[int], *, present: int) -> None:
        """Free duplicates, after the tree has taken over the window slots that it lacks."""
        mine = self._row(req)[req.cache_protected_len : present : self.page_size]
        if len(mine):
            found = super().match_prefix(tokens[:present], extra_key=req.lora_path)
            theirs = found.indices[req.cache_protected_len : present : self.page_size]
            lacking = (self._mapping[theirs] == 0) & (self._mapping[mine] != 0)
            if lacking.any():
                self._allocator.move_window(mine[lacking], theirs[lacking])
                for node in self._upwards(found.last_node, req.cache_protected_len):
                    self._count(node, self._windows_in(node))
        super()._free_duplicates(req, tokens, present=present)

    def _on_new_leaf(self, leaf: TreeNode) -> None:
        self._count(leaf, self._windows_in(leaf))

    def _split(self, child: TreeNode, length: int) -> TreeNode:
        upper = super()._split(child, length)
        upper.swa_lock_ref = child.swa_lock_ref
        upper.swa_count = self._windows_in(upper)
        child.swa_count -= upper.swa_count
        return upper

    def _drop_leaf(self, leaf: TreeNode) -> TreeNode:
        self._count(leaf, 0)
        return super()._drop_leaf(leaf)

    def _count(self, node: TreeNode, windows: int) -> None:
        """Note that so many slots of a node have window slots now."""
        if node.swa_lock_ref:
            self._swa_protected_size += windows - node.swa_count
        else:
            self._swa_evictable_size += windows - node.swa_count
        node.swa_count = windows

    def _windows_in(self, node: TreeNode) -> int:
        return int(np.count_nonzero(self._mapping[node.value]))

    def _depth(self, node: TreeNode) -> int:
        return sum(len(step.key) for step in self._upwards(node, None))

    def _upwards(self, node: TreeNode, start: int | None) -> Iterator[TreeNode]:
        """Yield a node and those above it, without the root, as far as they reach beyond `start`."""
        end = 0 if start is None else self._depth(node)
        step: TreeNode | None = node
        while step is not None and step is not self.root_node and (start is None or end > start):
            above = step.parent
            yield step
            end -= len(step.key)
            step = above

    def _cut(self, node: TreeNode, start: int) -> None:
        end = self._depth(node)
        for step in list(self._upwards(node, start)):
            begin = end - len(step.key)
            if begin < start < end:
                self._split(step, start - begin)
            end = begin

    def _page_floor(self, position: int) -> int:
        return position // self.page_size * self.page_size
