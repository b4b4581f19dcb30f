"""SGLang's memory as the protocols of scripted: KV pools, rows and prefix tree."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scripted_core.errors import ExhaustError

from scripted_sglang import _compat
from scripted_sglang._compat import IntArray


@dataclass(eq=False)
class PageHold:
    """Pages in a hold; ``slots`` is the allocator's own tensor, renewed after a flush."""

    slots: Any
    count: int


class SglangKvPool:
    """One allocator. ``evictable_tokens`` asks the tree for what it would give up of this pool."""

    def __init__(
        self,
        *,
        name: str,
        allocator: Any,
        page_size: int,
        evictable_tokens: Callable[[], int],
    ) -> None:
        self.name = name
        self.page_size = page_size
        self._allocator = allocator
        self._evictable_tokens = evictable_tokens
        self._holds: list[PageHold] = []

    @property
    def total(self) -> int:
        """Pages that the allocator manages."""
        return _compat.capacity_tokens(self._allocator) // self.page_size

    @property
    def available(self) -> int:
        """Pages on the free list."""
        return int(self._allocator.available_size()) // self.page_size

    @property
    def evictable(self) -> int:
        """Pages that the prefix tree would give up."""
        return self._evictable_tokens() // self.page_size

    @property
    def held(self) -> int:
        """Pages in holds."""
        return sum(hold.count for hold in self._holds)

    def hold(self, n: int) -> PageHold:
        """Take ``n`` free pages."""
        hold = PageHold(slots=self._take(n), count=n)
        self._holds.append(hold)
        return hold

    def release(self, hold: PageHold) -> None:
        """Give a hold back."""
        self._holds.remove(hold)
        if hold.count:
            self._allocator.free(hold.slots)

    def take_again(self) -> None:
        """SGLang's flush empties the allocator under the holds: take as much as before."""
        for hold in self._holds:
            hold.slots = self._take(hold.count)

    def free_pages(self) -> IntArray:
        """Ids of the free pages."""
        return _compat.free_pages(self._allocator)

    def held_pages(self) -> IntArray:
        """Ids of the held pages."""
        parts = [self._pages(hold.slots) for hold in self._holds if hold.count]
        return np.concatenate(parts) if parts else np.empty(0, dtype=np.int64)

    def _pages(self, slots: Any) -> IntArray:
        return _compat.as_array(slots)[:: self.page_size] // self.page_size

    def _take(self, n: int) -> Any:
        slots = self._allocator.alloc(n * self.page_size) if n else None
        if n and slots is None:
            raise ExhaustError(
                f"{n} pages of KV pool {self.name!r} cannot be held: {self.available} are free",
                hint="evict the prefix tree first, or hold fewer",
            )
        return slots


@dataclass(frozen=True, eq=False)
class RowHold:
    """Rows in a hold."""

    rows: list[int]

    @property
    def count(self) -> int:
        """How many."""
        return len(self.rows)


class SglangRowPool:
    """``req_to_token_pool``: its free list is a plain list."""

    def __init__(self, pool: Any) -> None:
        self._pool = pool
        self._holds: list[RowHold] = []

    @property
    def total(self) -> int:
        """Rows there are."""
        return _compat.row_count(self._pool)

    @property
    def available(self) -> int:
        """Rows free now."""
        return int(self._pool.available_size())

    @property
    def held(self) -> int:
        """Rows in holds."""
        return sum(hold.count for hold in self._holds)

    @property
    def free_rows(self) -> list[int]:
        """Ids of the free rows."""
        return list(self._pool.free_slots)

    @property
    def held_rows(self) -> list[int]:
        """Ids of the held rows."""
        return [row for hold in self._holds for row in hold.rows]

    def hold(self, n: int) -> RowHold:
        """Take ``n`` free rows, from the end of the free list as SGLang does."""
        free = self._pool.free_slots
        if n > len(free):
            raise ExhaustError(
                f"{n} request rows cannot be held: {len(free)} are free", hint="hold fewer"
            )
        hold = RowHold(rows=free[len(free) - n :])
        del free[len(free) - n :]
        self._holds.append(hold)
        return hold

    def release(self, hold: RowHold) -> None:
        """Give a hold back."""
        self._holds.remove(hold)
        self._pool.free_slots.extend(hold.rows)

    def take_again(self) -> None:
        """After a flush, which has put every row on the free list."""
        held = set(self.held_rows)
        self._pool.free_slots[:] = [row for row in self._pool.free_slots if row not in held]


@dataclass(frozen=True)
class NodeView:
    """One node of the prefix tree."""

    node: Any

    @property
    def native(self) -> Any:
        """SGLang's own node, or of a Rust core its number."""
        return _compat.native_node(self.node)

    @property
    def hit_count(self) -> int:
        """How often SGLang says it was matched."""
        return int(self.node.hit_count)

    @property
    def lock_ref(self) -> int:
        """How many users keep it."""
        return _compat.lock_ref_of(self.node)


@dataclass(frozen=True)
class NodeLock:
    """Proof of one lock."""

    node: Any
    receipt: Any

    @property
    def native(self) -> Any:
        """SGLang's own node."""
        return _compat.native_node(self.node)


class SglangPrefixTree:
    """``tree_cache``: the unified tree with either of its cores, or the legacy radix tree."""

    def __init__(self, tree: Any, *, page_size: int) -> None:
        self._tree = tree
        self._page_size = page_size
        self.held_locks = 0

    @property
    def enabled(self) -> bool:
        """False with ``disable_radix_cache``."""
        return not self._tree.disable

    def nodes(self) -> Iterator[NodeView]:
        """All nodes but the root, parents before children."""
        return (NodeView(node) for node in _compat.tree_nodes(self._tree))

    def lock(self, node: NodeView) -> NodeLock:
        """Keep a node and its ancestors from eviction."""
        receipt = _compat.lock_node(self._tree, node.node)
        self.held_locks += 1
        return NodeLock(node=node.node, receipt=receipt)

    def unlock(self, receipt: NodeLock) -> None:
        """Undo one lock."""
        _compat.unlock_node(self._tree, receipt.node, receipt.receipt)
        self.held_locks -= 1

    def evict(self, pages: int, *, pool: str = "full") -> int:
        """Evict unlocked nodes, least recently used first; the pages that came free."""
        tokens = pages * self._page_size
        if pool == "swa":
            before = self._window_tokens()
            _compat.evict_tokens(self._tree, 0, swa_tokens=tokens)
            return (before - self._window_tokens()) // self._page_size
        before = self._size()
        _compat.evict_tokens(self._tree, tokens)
        return (before - self._size()) // self._page_size

    def _window_tokens(self) -> int:
        return _compat.evictable_tokens(self._tree, pool="swa", is_hybrid=True)

    def evict_prefix(self, prefix_tokens: Sequence[int] | None) -> int:
        """Drop what is unlocked below a prefix, by SGLang's own eviction.

        SGLang can only evict the least recently used: everything unlocked that is *not* below the
        prefix is locked for the time of the call.
        """
        before = self._size()
        locks: list[NodeLock] = []
        if prefix_tokens is not None:
            inside = _compat.nodes_below(self._tree, tuple(prefix_tokens))
            # Also what is above the subtree: it becomes a leaf once the subtree is gone.
            locks = [
                self.lock(node)
                for node in list(self.nodes())
                if _compat.identity_of(node.node) not in inside
            ]
        try:
            _compat.evict_tokens(self._tree, before)
        finally:
            for lock in reversed(locks):
                self.unlock(lock)
        return (before - self._size()) // self._page_size

    def _size(self) -> int:
        return sum(_compat.node_value_tokens(node) for node in _compat.tree_nodes(self._tree))
