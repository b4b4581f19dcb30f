"""The memory of a pipeline as the protocols of scripted: what is shown is the driver's, what is done
is done on every stage.

The stages decide alike, so they have the same figures. Where they do not, something is wrong, and the
adapter says so (`PipelineAdapter.rank_differences`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from scripted_reference.pools import (
    FULL_POOL,
    LockReceipt,
    NodeView,
    PageHold,
    ReferenceKvPool,
    ReferencePrefixTree,
    ReferenceRowPool,
    RowHold,
)
from scripted_reference.pp.scheduler import PipelineScheduler
from scripted_reference.tree_node import TreeNode


@dataclass(frozen=True)
class StagedPageHold:
    """Pages in a hold, stage by stage."""

    by_stage: tuple[PageHold, ...]

    @property
    def count(self) -> int:
        """How many on each stage."""
        return self.by_stage[0].count


class StagedKvPool:
    """The KV pools of all stages."""

    def __init__(self, stages: Sequence[PipelineScheduler]) -> None:
        self._pools = [ReferenceKvPool(stage, name=FULL_POOL) for stage in stages]
        self.name = FULL_POOL
        self.page_size = self._pools[0].page_size

    @property
    def total(self) -> int:
        """Pages in the pool of a stage."""
        return self._pools[0].total

    @property
    def available(self) -> int:
        """Pages on the free list."""
        return self._pools[0].available

    @property
    def evictable(self) -> int:
        """Pages of unlocked tree nodes."""
        return self._pools[0].evictable

    @property
    def held(self) -> int:
        """Pages in holds."""
        return self._pools[0].held

    def hold(self, n: int) -> StagedPageHold:
        """Take ``n`` free pages on every stage."""
        return StagedPageHold(tuple(pool.hold(n) for pool in self._pools))

    def release(self, hold: StagedPageHold) -> None:
        """Give a hold back on every stage."""
        for pool, part in zip(self._pools, hold.by_stage, strict=True):
            pool.release(part)


@dataclass(frozen=True)
class StagedRowHold:
    """Rows in a hold, stage by stage."""

    by_stage: tuple[RowHold, ...]

    @property
    def count(self) -> int:
        """How many on each stage."""
        return self.by_stage[0].count


class StagedRowPool:
    """The request rows of all stages."""

    def __init__(self, stages: Sequence[PipelineScheduler]) -> None:
        self._pools = [ReferenceRowPool([stage]) for stage in stages]

    @property
    def total(self) -> int:
        """Rows of a stage."""
        return self._pools[0].total

    @property
    def available(self) -> int:
        """Rows free now."""
        return self._pools[0].available

    @property
    def held(self) -> int:
        """Rows in holds."""
        return self._pools[0].held

    def hold(self, n: int) -> StagedRowHold:
        """Take ``n`` free rows on every stage."""
        return StagedRowHold(tuple(pool.hold(n) for pool in self._pools))

    def release(self, hold: StagedRowHold) -> None:
        """Give a hold back on every stage."""
        for pool, part in zip(self._pools, hold.by_stage, strict=True):
            pool.release(part)


@dataclass(frozen=True)
class StagedNode:
    """The node of the same prefix on every stage; what is shown is the driver's."""

    by_stage: tuple[NodeView, ...]

    @property
    def native(self) -> TreeNode:
        """The driver's own node."""
        return self.by_stage[0].native

    @property
    def hit_count(self) -> int:
        """How often a request left its KV here or came by."""
        return self.by_stage[0].hit_count

    @property
    def lock_ref(self) -> int:
        """How many users keep it."""
        return self.by_stage[0].lock_ref


@dataclass(frozen=True)
class StagedLock:
    """One lock on every stage."""

    node: StagedNode
    by_stage: tuple[LockReceipt, ...]

    @property
    def native(self) -> TreeNode:
        """The driver's own node."""
        return self.node.native


class StagedPrefixTree:
    """The radix trees of all stages."""

    def __init__(self, stages: Sequence[PipelineScheduler]) -> None:
        self._trees = [ReferencePrefixTree({FULL_POOL: stage.tree_cache}) for stage in stages]

    @property
    def held_locks(self) -> int:
        """Locks that exhausters hold on each stage."""
        return self._trees[0].held_locks

    @property
    def enabled(self) -> bool:
        """False with ``disable_radix_cache``."""
        return self._trees[0].enabled

    def nodes(self) -> Iterator[StagedNode]:
        """All nodes but the root, parents before children."""
        return (
            StagedNode(twins)
            for twins in zip(*(tree.nodes() for tree in self._trees), strict=False)
        )

    def lock(self, node: StagedNode) -> StagedLock:
        """Keep a node and its ancestors from eviction on every stage."""
        receipts = tuple(
            tree.lock(one) for tree, one in zip(self._trees, node.by_stage, strict=True)
        )
        return StagedLock(node, receipts)

    def unlock(self, receipt: StagedLock) -> None:
        """Undo one lock."""
        for tree, one in zip(self._trees, receipt.by_stage, strict=True):
            tree.unlock(one)

    def evict(self, pages: int, *, pool: str = FULL_POOL) -> int:
        """Evict on every stage until ``pages`` came free; how many did on the driver's."""
        freed = [tree.evict(pages, pool=pool) for tree in self._trees]
        return freed[0]

    def evict_prefix(self, prefix_tokens: Sequence[int] | None) -> int:
        """Drop what is unlocked below a prefix on every stage; the pages freed on the driver's."""
        freed = [tree.evict_prefix(prefix_tokens) for tree in self._trees]
        return freed[0]
