"""Locking prefix-tree nodes so that they cannot be evicted."""

from __future__ import annotations

from typing import Any

from scripted_core.memory_ports import LockReceipt, PrefixTree, TreeNode
from scripted_core.ports import port_of
from scripted_core.requests import require_int


class ScriptedLockRefExhauster:
    """Locks nodes whose lock ref is 0 until no more than ``leave_refs`` of them are left."""

    def __init__(self, scheduler: Any) -> None:
        self._port = port_of(scheduler)
        self._locked: list[tuple[PrefixTree, LockReceipt]] = []

    def exhaust(self, *, leave_refs: int) -> None:
        """Lock nodes until at most ``leave_refs`` unlocked ones remain.

        A lock also holds the node's ancestors, so parents are locked first: each lock then takes
        exactly one node out. There is nothing to do when the tree is disabled.
        """
        require_int("exhaust_lock_refs", "leave_refs", leave_refs, at_least=0)
        tree = self._port.prefix_tree
        if tree is None or not tree.enabled:
            return
        evictable = self._evictable_nodes(tree)
        for node in evictable[: max(0, len(evictable) - leave_refs)]:
            self._locked.append((tree, tree.lock(node)))

    def release(self) -> None:
        """Undo every lock, the latest first; may be called twice."""
        while self._locked:
            tree, receipt = self._locked.pop()
            tree.unlock(receipt)

    @staticmethod
    def _evictable_nodes(tree: PrefixTree) -> list[TreeNode]:
        return [node for node in tree.nodes() if node.lock_ref == 0]
