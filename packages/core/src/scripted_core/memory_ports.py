"""An engine's memory as protocols: KV pools, request rows and the prefix tree.

Page counts are pages of the pool's ``page_size`` tokens; everything is read and changed at iteration
boundaries only.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Protocol, runtime_checkable

import msgspec


class Hold(Protocol):
    """Pages or rows taken out of circulation; opaque to everyone but the pool that gave it."""

    @property
    def count(self) -> int:
        """How many pages or rows are held."""
        ...


class KvPool(Protocol):
    """One pool of KV pages."""

    name: str
    page_size: int

    @property
    def total(self) -> int:
        """Pages a request could ever get."""
        ...

    @property
    def available(self) -> int:
        """Pages on the free list."""
        ...

    @property
    def evictable(self) -> int:
        """Pages that the prefix tree would give up for a request."""
        ...

    @property
    def held(self) -> int:
        """Pages in holds."""
        ...

    def hold(self, n: int) -> Hold:
        """Take ``n`` free pages; raises ``ExhaustError`` when fewer are free."""
        ...

    def release(self, hold: Any) -> None:
        """Give a hold back."""
        ...


class RowPool(Protocol):
    """The pool of request rows (slots in the table from requests to KV)."""

    @property
    def total(self) -> int:
        """Rows there are."""
        ...

    @property
    def available(self) -> int:
        """Rows free now."""
        ...

    @property
    def held(self) -> int:
        """Rows in holds."""
        ...

    def hold(self, n: int) -> Hold:
        """Take ``n`` free rows; raises ``ExhaustError`` when fewer are free."""
        ...

    def release(self, hold: Any) -> None:
        """Give a hold back."""
        ...


class TreeNode(Protocol):
    """One node of a prefix tree, the root excepted. ``native`` is the engine's own node."""

    @property
    def native(self) -> Any:
        """The engine's own object or id of the node."""
        ...

    @property
    def hit_count(self) -> int:
        """How often the engine says that the node was matched."""
        ...

    @property
    def lock_ref(self) -> int:
        """How many users keep the node from eviction."""
        ...


class LockReceipt(Protocol):
    """Proof of one lock on a node; give it to ``PrefixTree.unlock``."""

    @property
    def native(self) -> Any:
        """The engine's own node."""
        ...


class PrefixTree(Protocol):
    """The radix tree (or block hash table) of cached prefixes."""

    @property
    def enabled(self) -> bool:
        """False when the engine was started without one."""
        ...

    def nodes(self) -> Iterable[TreeNode]:
        """All nodes but the root, parents before children."""
        ...

    def lock(self, node: Any) -> LockReceipt:
        """Keep ``node`` and its ancestors from eviction."""
        ...

    def unlock(self, receipt: Any) -> None:
        """Undo one lock."""
        ...

    def evict(self, pages: int, *, pool: str = "full") -> int:
        """Evict unlocked nodes, least recently used first, until ``pages`` came free; the number."""
        ...

    def evict_prefix(self, prefix_tokens: Sequence[int] | None) -> int:
        """Drop what is unlocked in the subtree below a prefix (``None``: everywhere); pages freed."""
        ...


class NodeDetail(msgspec.Struct, frozen=True):
    """One node: ``tokens`` from the root to its end, and when it was last used by the tree's own clock.

    ``number`` is the node's for as long as it lives, and no other node's.
    """

    number: int
    tokens: Sequence[int]
    last_used: int
    lock_ref: int
    is_leaf: bool


@runtime_checkable
class DetailedTree(Protocol):
    """What a prefix tree adds that shows what is in it."""

    def details(self) -> Iterable[NodeDetail]:
        """All nodes but the root, parents before children."""
        ...
