"""A prefix tree with one page for each node."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from scripted_core.errors import ExhaustError
from scripted_core.memory_ports import LockReceipt, TreeNode


class FakeTreeNode:
    """One page of cached tokens below its parent."""

    def __init__(self, *, tokens: tuple[int, ...], page: int, parent: FakeTreeNode | None) -> None:
        self.tokens = tokens
        self.page = page
        self.parent = parent
        self.children: dict[tuple[int, ...], FakeTreeNode] = {}
        self.hit_count = 0
        self.lock_ref = 0
        self.last_used = 0

    @property
    def native(self) -> FakeTreeNode:
        """The node itself: a fake has no engine below it."""
        return self

    def path(self) -> Iterator[FakeTreeNode]:
        """This node and its ancestors, the root excepted."""
        node: FakeTreeNode | None = self
        while node is not None and node.parent is not None:
            yield node
            node = node.parent


@dataclass(frozen=True, eq=False)
class FakeLock:
    """Proof of one lock."""

    native: FakeTreeNode


class FakePrefixTree:
    """Cached prefixes, a page at a time, with lock refs and LRU eviction of leaves.

    ``free_pages`` is called with the pages that eviction brings back.
    """

    def __init__(
        self,
        *,
        page_size: int = 4,
        enabled: bool = True,
        free_pages: Callable[[Iterable[int]], None] = lambda pages: None,
    ) -> None:
        self.enabled = enabled
        self._page_size = page_size
        self._free_pages = free_pages
        self._root = FakeTreeNode(tokens=(), page=-1, parent=None)
        self._locks: list[FakeLock] = []
        self._clock = 0

    # -- the protocol --------------------------------------------------------------------------

    def nodes(self) -> Iterator[FakeTreeNode]:
        """All nodes but the root, parents before children."""
        frontier = list(self._root.children.values())
        while frontier:
            node = frontier.pop(0)
            yield node
            frontier.extend(node.children.values())

    def lock(self, node: TreeNode) -> FakeLock:
        """Keep ``node`` and its ancestors from eviction."""
        receipt = FakeLock(node.native)
        self.pin(receipt.native)
        self._locks.append(receipt)
        return receipt

    def unlock(self, receipt: LockReceipt) -> None:
        """Undo one lock; ``ExhaustError`` when it is not in force."""
        own = next((one for one in self._locks if one is receipt), None)
        if own is None:
            raise ExhaustError(
                "a lock receipt is not in force in this tree",
                hint="unlock once, with what lock returned",
            )
        self._locks.remove(own)
        self.unpin(own.native)

    def evict(self, pages: int, *, pool: str = "full") -> int:
        """Evict unlocked leaves, least recently used first, until ``pages`` came free."""
        freed = 0
        while freed < pages:
            leaves = [node for node in self.nodes() if not node.children and not node.lock_ref]
            if not leaves:
                break
            self._drop(min(leaves, key=lambda node: (node.last_used, node.page)))
            freed += 1
        return freed

    def evict_prefix(self, prefix_tokens: Sequence[int] | None) -> int:
        """Drop what is unlocked below a prefix (``None``: everywhere); the pages that came free."""
        start = self._root if prefix_tokens is None else self._find(prefix_tokens)
        if start is None:
            return 0
        freed = 0
        for node in reversed(list(self.nodes())):
            below = start in node.path() or start is self._root
            if below and not node.children and not node.lock_ref:
                self._drop(node)
                freed += 1
        return freed

    # -- what an engine does with it -----------------------------------------------------------

    @property
    def held_locks(self) -> int:
        """Locks that were taken with :meth:`lock` and are in force."""
        return len(self._locks)

    @property
    def evictable_pages(self) -> int:
        """Pages of nodes without a lock."""
        return sum(1 for node in self.nodes() if not node.lock_ref)

    def pages(self) -> list[int]:
        """Pages of all nodes."""
        return [node.page for node in self.nodes()]

    def match(self, tokens: Sequence[int]) -> list[FakeTreeNode]:
        """The nodes of the longest cached prefix of ``tokens``, counted as hits."""
        found = list(self._walk(tokens))
        self._clock += 1
        for node in found:
            node.hit_count += 1
            node.last_used = self._clock
        return found

    def insert(self, tokens: Sequence[int], pages: Sequence[int]) -> list[int]:
        """Take over ``pages`` of ``tokens``; returns those whose tokens were there already."""
        node = self._root
        duplicates: list[int] = []
        self._clock += 1
        for key, page in zip(self._keys(tokens), pages, strict=True):
            child = node.children.get(key)
            if child is None:
                child = FakeTreeNode(tokens=key, page=page, parent=node)
                node.children[key] = child
            elif child.page != page:
                duplicates.append(page)
            child.last_used = self._clock
            node = child
        return duplicates

    def pin(self, node: FakeTreeNode) -> None:
        """Add a lock ref to ``node`` and its ancestors for a request."""
        for one in node.path():
            one.lock_ref += 1

    def unpin(self, node: FakeTreeNode) -> None:
        """Take the lock refs back."""
        for one in node.path():
            one.lock_ref -= 1

    def _keys(self, tokens: Sequence[int]) -> Iterator[tuple[int, ...]]:
        for start in range(0, len(tokens) - self._page_size + 1, self._page_size):
            yield tuple(tokens[start : start + self._page_size])

    def _walk(self, tokens: Sequence[int]) -> Iterator[FakeTreeNode]:
        node = self._root
        for key in self._keys(tokens):
            if key not in node.children:
                return
            node = node.children[key]
            yield node

    def _find(self, tokens: Sequence[int]) -> FakeTreeNode | None:
        found = list(self._walk(tokens))
        whole = len(tokens) // self._page_size
        return found[-1] if found and len(found) == whole else None

    def _drop(self, node: FakeTreeNode) -> None:
        assert node.parent is not None
        del node.parent.children[node.tokens]
        self._free_pages([node.page])
