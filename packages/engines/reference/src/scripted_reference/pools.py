"""The engine's memory as the protocols of scripted: KV pool, row pool and prefix tree."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from scripted_core.errors import ExhaustError

from scripted_reference.errors import HoldError
from scripted_reference.memory import IntArray
from scripted_reference.scheduler import Scheduler
from scripted_reference.tree_node import TreeNode


@dataclass(frozen=True)
class PageHold:
    """Pages in a hold, by the slots that they consist of."""

    slots: IntArray
    count: int


@dataclass(frozen=True)
class RowHold:
    """Rows in a hold."""

    rows: tuple[int, ...]

    @property
    def count(self) -> int:
        """How many."""
        return len(self.rows)


class ReferenceKvPool:
    """The one KV pool."""

    name = "full"

    def __init__(self, scheduler: Scheduler) -> None:
        self._scheduler = scheduler
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


class ReferenceRowPool:
    """The rows of ``req_to_token``."""

    def __init__(self, scheduler: Scheduler) -> None:
        self._scheduler = scheduler

    @property
    def total(self) -> int:
        """Rows there are."""
        return self._scheduler.req_to_token_pool.size

    @property
    def available(self) -> int:
        """Rows free now."""
        return self._scheduler.req_to_token_pool.available_size()

    @property
    def held(self) -> int:
        """Rows in holds."""
        return self._scheduler.holds.row_count

    def hold(self, n: int) -> RowHold:
        """Take ``n`` free rows."""
        try:
            return RowHold(rows=tuple(self._scheduler.holds.hold_rows(n)))
        except HoldError as error:
            raise ExhaustError(error.message, hint=error.hint) from error

    def release(self, hold: RowHold) -> None:
        """Give a hold back."""
        self._scheduler.holds.release_rows(list(hold.rows))


@dataclass(frozen=True)
class NodeView:
    """One node of the radix tree."""

    native: TreeNode

    @property
    def hit_count(self) -> int:
        """How often a request left its KV here or came by."""
        return self.native.hit_count

    @property
    def lock_ref(self) -> int:
        """How many users keep it."""
        return self.native.lock_ref


class ReferencePrefixTree:
    """The radix tree."""

    def __init__(self, scheduler: Scheduler) -> None:
        self._tree = scheduler.tree_cache
        self._page_size = scheduler.page_size
        self.held_locks = 0

    @property
    def enabled(self) -> bool:
        """False with ``disable_radix_cache``."""
        return not self._tree.disable

    def nodes(self) -> Iterator[NodeView]:
        """All nodes but the root, parents before children."""
        return (NodeView(node) for node in self._tree.nodes())

    def lock(self, node: NodeView) -> NodeView:
        """Keep a node and its ancestors from eviction."""
        self._tree.inc_lock_ref(node.native)
        self.held_locks += 1
        return node

    def unlock(self, receipt: NodeView) -> None:
        """Undo one lock."""
        self._tree.dec_lock_ref(receipt.native)
        self.held_locks -= 1

    def evict(self, pages: int, *, pool: str = "full") -> int:
        """Evict the least recently used unlocked leaves until ``pages`` came free."""
        return self._tree.evict(pages * self._page_size) // self._page_size

    def evict_prefix(self, prefix_tokens: Sequence[int] | None) -> int:
        """Drop what is unlocked below a prefix; the pages that came free."""
        return self._tree.evict_prefix(prefix_tokens) // self._page_size
