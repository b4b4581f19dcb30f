"""Faults of the prefix tree: matches, splits, locks, eviction and flush."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from scripted_reference.engine_memory import EngineMemory
from scripted_reference.faults.fault import Area, seeded
from scripted_reference.memory import IntArray
from scripted_reference.radix import RadixCache
from scripted_reference.request import Req
from scripted_reference.scheduler import Scheduler
from scripted_reference.tree_node import ChildKey, TreeNode

_HERE = Area.PREFIX_TREE


@seeded(
    "match-too-long",
    _HERE,
    stands_for="the comparison of an edge with a prompt, at the first token that differs",
)
class MatchTooLong(RadixCache):
    """A prefix match takes in one page more than agrees."""

    def _common_len(self, key: tuple[int, ...], tokens: tuple[int, ...], position: int) -> int:
        right = super()._common_len(key, tokens, position)
        return min(right + self.page_size, len(key), len(tokens) - position)


@seeded(
    "partial-page-cached",
    _HERE,
    stands_for="rounding up where the tree keeps whole pages only",
)
class PartialPageCached(RadixCache):
    """The tree takes a page that is not full, which its owner frees."""

    def _aligned(self, token_ids: Sequence[int]) -> tuple[int, ...]:
        return tuple(token_ids)


@seeded(
    "prefix-shared-across-adapters",
    _HERE,
    stands_for="a prefix cache that was there before LoRA was",
    out_of_reach="a script needs two LoRA adapters and a model that takes them; none is shipped",
)
class PrefixSharedAcrossAdapters(RadixCache):
    """KV that was computed with one LoRA adapter is reused with another one."""

    def _child_key(self, tokens: tuple[int, ...], position: int, extra_key: str | None) -> ChildKey:
        return super()._child_key(tokens, position, None)


@seeded(
    "split-drops-lock",
    _HERE,
    stands_for="the fields that a split has to copy to the new node",
)
class SplitDropsLock(RadixCache):
    """The upper half of a locked node is unlocked after a split."""

    def _split(self, child: TreeNode, length: int) -> TreeNode:
        upper = super()._split(child, length)
        if upper.lock_ref:
            upper.lock_ref = 0
            self._protected_size -= len(upper.key)
            self._evictable_size += len(upper.key)
        return upper


@seeded(
    "split-shifts-slots",
    _HERE,
    stands_for="the two slices of a split, of tokens and of slots",
)
class SplitShiftsSlots(RadixCache):
    """After a split the lower half names its slots one token too early."""

    def _split(self, child: TreeNode, length: int) -> TreeNode:
        whole = child.value
        upper = super()._split(child, length)
        child.value = whole[length - 1 : -1].copy()
        self._flat_values = None
        return upper


@seeded(
    "locked-node-evicted",
    _HERE,
    stands_for="an eviction under pressure that takes what it can get",
)
class LockedNodeEvicted(RadixCache):
    """When nothing else is left, eviction drops nodes that a running request needs."""

    def evict(self, num_tokens: int) -> int:
        """Go on with what is locked."""
        evicted = super().evict(num_tokens)
        leaves = [node for node in self.nodes() if not node.children]
        while leaves and evicted < num_tokens:
            leaf = leaves.pop()
            leaf.lock_ref = 0
            self._protected_size -= len(leaf.key)
            self._evictable_size += len(leaf.key)
            self._drop_leaf(leaf)
            evicted += len(leaf.key)
        return evicted


@seeded(
    "most-recent-evicted-first",
    _HERE,
    stands_for="a heap with the wrong sign",
)
class MostRecentEvictedFirst(RadixCache):
    """Eviction drops what was used last."""

    def evict(self, num_tokens: int) -> int:
        """Turn the order round."""
        for node in self.nodes():
            node.last_access_time *= -1
        evicted = super().evict(num_tokens)
        for node in self.nodes():
            node.last_access_time *= -1
        return evicted


@seeded(
    "siblings-evicted",
    _HERE,
    stands_for="eviction by prefix that stops comparing at the first node",
)
class SiblingsEvicted(RadixCache):
    """To evict one prefix drops all that begin with the same token."""

    def evict_prefix(self, tokens: Sequence[int] | None) -> int:
        """Look at the first token only."""
        return super().evict_prefix(None if tokens is None else tokens[:1])


@seeded(
    "evicted-tokens-still-counted",
    _HERE,
    stands_for="`evictable_size`, a counter beside the tree that it counts",
)
class EvictedTokensStillCounted(RadixCache):
    """What was evicted still counts as evictable."""

    def _drop_leaf(self, leaf: TreeNode) -> TreeNode:
        parent = super()._drop_leaf(leaf)
        self._evictable_size += len(leaf.key)
        return parent


@seeded(
    "chunked-lock-lost-at-stash",
    _HERE,
    stands_for="the lock that moves to a new node when a chunk is stashed",
)
class ChunkedLockLostAtStash(RadixCache):
    """A request that is part way through its prompt does not lock what it has stashed."""

    def cache_unfinished_req(self, req: Req, *, chunked: bool = False) -> None:
        """Let go of the lock."""
        super().cache_unfinished_req(req, chunked=chunked)
        if chunked and req.last_node is not None:
            self.dec_lock_ref(req.last_node)
            req.last_node = None


@seeded(
    "only-the-leaf-locked",
    _HERE,
    stands_for="the walk to the root in `inc_lock_ref`",
)
class OnlyTheLeafLocked(RadixCache):
    """A lock is taken on the node alone, and released on the path above it too."""

    def inc_lock_ref(self, node: TreeNode) -> int:
        """Do not walk up."""
        if node is self.root_node:
            return 0
        length = len(node.key) if node.lock_ref == 0 else 0
        self._evictable_size -= length
        self._protected_size += length
        node.lock_ref += 1
        return -length


@seeded(
    "hits-not-counted",
    _HERE,
    stands_for="a statistic that a refactoring leaves behind",
)
class HitsNotCounted(RadixCache):
    """The hit counts of nodes stay at zero."""

    def insert(
        self,
        token_ids: Sequence[int],
        value: IntArray,
        *,
        chunked: bool = False,
        extra_key: str | None = None,
    ) -> int:
        """Insert as a chunk."""
        return super().insert(token_ids, value, chunked=True, extra_key=extra_key)


@seeded(
    "chunks-counted-as-hits",
    _HERE,
    stands_for="SGLang's `chunked` flag of `insert`, which was added for this",
)
class ChunksCountedAsHits(RadixCache):
    """Every chunk of one request counts as a hit of its own beginning."""

    def insert(
        self,
        token_ids: Sequence[int],
        value: IntArray,
        *,
        chunked: bool = False,
        extra_key: str | None = None,
    ) -> int:
        """Insert as a whole request."""
        return super().insert(token_ids, value, chunked=False, extra_key=extra_key)


@seeded(
    "flush-keeps-nodes",
    _HERE,
    stands_for="a flush that says yes and returns early",
)
class FlushKeepsNodes(EngineMemory):
    """A flush is answered with success, and the tree is as it was."""

    def reset_if_unlocked(self) -> bool:
        """Say that it was done."""
        return not self.tree_cache.protected_size()


@seeded(
    "flush-while-requests-wait",
    _HERE,
    stands_for="an idle check that looks at the running batch only",
)
class FlushWhileRequestsWait(Scheduler):
    """A flush is done although requests are waiting."""

    def can_flush(self) -> bool:
        """Look at what has memory."""
        busy = self.running_batch.reqs or self.chunked_req or len(self.in_flight)
        return not busy and not self.tree_cache.protected_size()


@seeded(
    "evicted-page-not-freed",
    _HERE,
    stands_for="a node that leaves the tree before its slots are read",
)
class EvictedPageNotFreed(RadixCache):
    """The last page of an evicted node is lost."""

    def _drop_leaf(self, leaf: TreeNode) -> TreeNode:
        slots = leaf.value
        leaf.value = slots[: -self.page_size]
        parent = super()._drop_leaf(leaf)
        leaf.value = np.concatenate((leaf.value, slots[-self.page_size :]))
        return parent
