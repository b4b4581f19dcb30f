"""The engine's memory as the protocols of scripted: KV pools, row pool and prefix tree.

Each data-parallel replica has a KV pool of its own: `"full"` is replica 0's, `"full@1"` that of replica
1, and so on; `"swa"`, `"swa@1"` are the window pools of models that have one. Rows and prefix trees are
shown as one row pool and one forest.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from scripted_core.errors import ExhaustError
from scripted_core.memory_ports import NodeDetail

from scripted_reference.engine_memory import WindowPool
from scripted_reference.errors import HoldError
from scripted_reference.memory import IntArray
from scripted_reference.radix import RadixCache
from scripted_reference.scheduler import Scheduler
from scripted_reference.swa_radix import SwaRadixCache
from scripted_reference.tree_node import TreeNode

FULL_POOL: Final = "full"
WINDOW_POOL: Final = "swa"


def window_pool_name(full: str) -> str:
    """Return the name of the window pool beside the full pool of this name."""
    kind, at, rank = full.partition("@")
    return f"{WINDOW_POOL if kind == FULL_POOL else f'{kind}-{WINDOW_POOL}'}{at}{rank}"


@dataclass(frozen=True)
class PageHold:
    """Pages in a hold, by the slots that they consist of."""

    slots: IntArray
    count: int


@dataclass(frozen=True)
class RowHold:
    """Rows in a hold, by replica."""

    rows_by_rank: tuple[tuple[int, ...], ...]

    @property
    def count(self) -> int:
        """How many."""
        return sum(map(len, self.rows_by_rank))


class ReferenceKvPool:
    """The KV pool of one replica."""

    def __init__(self, scheduler: Scheduler, *, name: str) -> None:
        self._scheduler = scheduler
        self.name = name
        self.page_size = scheduler.page_size

    @property
    def total(self) -> int:
        """Pages in the pool."""
        return self._scheduler.token_to_kv_pool_allocator.num_pages

    @property
    def available(self) -> int:
        """Pages on the free list."""
        return self._scheduler.token_to_kv_pool_allocator.available_size() // self.page_size

    @property
    def evictable(self) -> int:
        """Pages of unlocked tree nodes."""
        return self._scheduler.tree_cache.evictable_size() // self.page_size

    @property
    def held(self) -> int:
        """Pages in holds."""
        return self._scheduler.holds.page_count

    def hold(self, n: int) -> PageHold:
        """Take ``n`` free pages."""
        try:
            return PageHold(slots=self._scheduler.holds.hold_pages(n), count=n)
        except HoldError as error:
            raise ExhaustError(error.message, hint=error.hint) from error

    def release(self, hold: PageHold) -> None:
        """Give a hold back."""
        self._scheduler.holds.release_pages(hold.slots)


class ReferenceWindowPool:
    """The window pool of one replica."""

    def __init__(self, window: WindowPool, *, name: str) -> None:
        self._window = window
        self._allocator = window.allocator.swa_attn_allocator
        self.name = name
        self.page_size = self._allocator.page_size

    @property
    def total(self) -> int:
        """Pages in the pool."""
        return self._allocator.num_pages

    @property
    def available(self) -> int:
        """Pages on the free list."""
        return self._allocator.available_size() // self.page_size

    @property
    def evictable(self) -> int:
        """Pages of tree nodes whose window nobody has locked."""
        return self._window.tree_cache.swa_evictable_size() // self.page_size

    @property
    def held(self) -> int:
        """Pages in holds."""
        return self._window.holds.count

    def hold(self, n: int) -> PageHold:
        """Take ``n`` free pages of this pool alone."""
        try:
            return PageHold(slots=self._window.holds.hold(n), count=n)
        except HoldError as error:
            raise ExhaustError(error.message, hint=error.hint) from error

    def release(self, hold: PageHold) -> None:
        """Give a hold back."""
        self._window.holds.release(hold.slots)


def kv_pools_of(
    by_pool: Mapping[str, Scheduler],
) -> dict[str, ReferenceKvPool | ReferenceWindowPool]:
    """Return all pools of all replicas, which are given by the names of their full pools."""
    pools: dict[str, ReferenceKvPool | ReferenceWindowPool] = {}
    for name, scheduler in by_pool.items():
        pools[name] = ReferenceKvPool(scheduler, name=name)
        window = scheduler.memory.window
        if window is not None:
            beside = window_pool_name(name)
            pools[beside] = ReferenceWindowPool(window, name=beside)
    return pools


class ReferenceRowPool:
    """The rows of every replica's ``req_to_token``."""

    def __init__(self, schedulers: Sequence[Scheduler]) -> None:
        self._schedulers = tuple(schedulers)

    @property
    def total(self) -> int:
        """Rows there are."""
        return sum(one.req_to_token_pool.size for one in self._schedulers)

    @property
    def available(self) -> int:
        """Rows free now."""
        return sum(one.req_to_token_pool.available_size() for one in self._schedulers)

    @property
    def held(self) -> int:
        """Rows in holds."""
        return sum(one.holds.row_count for one in self._schedulers)

    def hold(self, n: int) -> RowHold:
        """Take ``n`` free rows, those of the last replica first."""
        if not 0 <= n <= self.available:
            raise ExhaustError(
                f"{n} request rows cannot be held: {self.available} are free",
                hint="hold fewer, or wait for running requests to end",
            )
        taken: list[tuple[int, ...]] = []
        for scheduler in reversed(self._schedulers):
            here = min(n, scheduler.req_to_token_pool.available_size())
            taken.append(tuple(scheduler.holds.hold_rows(here)))
            n -= here
        return RowHold(rows_by_rank=tuple(reversed(taken)))

    def release(self, hold: RowHold) -> None:
        """Give a hold back."""
        for scheduler, rows in zip(self._schedulers, hold.rows_by_rank, strict=True):
            scheduler.holds.release_rows(list(rows))


@dataclass(frozen=True)
class NodeView:
    """One node of a radix tree."""

    native: TreeNode
    tree: RadixCache

    @property
    def hit_count(self) -> int:
        """How often a request left its KV here or came by."""
        return self.native.hit_count

    @property
    def lock_ref(self) -> int:
        """How many users keep it."""
        return self.native.lock_ref


@dataclass(frozen=True)
class LockReceipt:
    """One lock on a node, and from which position on it keeps window slots."""

    node: NodeView
    window_start: int = 0

    @property
    def native(self) -> TreeNode:
        """The engine's own node."""
        return self.node.native


class ReferencePrefixTree:
    """The radix trees of all replicas."""

    def __init__(self, trees: Mapping[str, RadixCache]) -> None:
        """``trees`` are named as the full KV pools whose pages they have."""
        self._trees = trees
        self.held_locks = 0

    @property
    def enabled(self) -> bool:
        """False with ``disable_radix_cache``."""
        return any(not tree.disable for tree in self._trees.values())

    def nodes(self) -> Iterator[NodeView]:
        """All nodes but the roots, parents before children, replica after replica."""
        return (NodeView(node, tree) for tree in self._trees.values() for node in tree.nodes())

    def details(self) -> Iterator[NodeDetail]:
        """All nodes but the roots, with their tokens from the root on."""
        for place, tree in enumerate(self._trees.values()):
            tokens: dict[int, tuple[int, ...]] = {}
            for node in tree.nodes():
                before = () if node.parent is None else tokens.get(node.parent.id, ())
                tokens[node.id] = before + node.key
                yield NodeDetail(
                    number=node.id * len(self._trees) + place,
                    tokens=tokens[node.id],
                    last_used=node.last_access_time,
                    lock_ref=node.lock_ref,
                    is_leaf=not node.children,
                )

    def lock(self, node: NodeView) -> LockReceipt:
        """Keep a node and its ancestors from eviction, and the window before its end with them."""
        tree = node.tree
        start = tree.lock_window(node.native) if isinstance(tree, SwaRadixCache) else 0
        tree.inc_lock_ref(node.native)
        self.held_locks += 1
        return LockReceipt(node, start)

    def unlock(self, receipt: LockReceipt) -> None:
        """Undo one lock."""
        tree = receipt.node.tree
        tree.dec_lock_ref(receipt.native)
        if isinstance(tree, SwaRadixCache):
            tree.unlock_window(receipt.native, receipt.window_start)
        self.held_locks -= 1

    def evict(self, pages: int, *, pool: str = FULL_POOL) -> int:
        """Evict what was least recently used and is unlocked until ``pages`` of ``pool`` came free."""
        tree = self._trees.get(pool)
        if tree is not None:
            return tree.evict(pages * tree.page_size) // tree.page_size
        full = next(name for name in self._trees if window_pool_name(name) == pool)
        beside = self._trees[full]
        assert isinstance(beside, SwaRadixCache), f"{full} has no window pool beside it"
        return beside.evict_window(pages * beside.page_size) // beside.page_size

    def evict_prefix(self, prefix_tokens: Sequence[int] | None) -> int:
        """Drop what is unlocked below a prefix, in every replica; the pages that came free."""
        return sum(
            tree.evict_prefix(prefix_tokens) // tree.page_size for tree in self._trees.values()
        )
