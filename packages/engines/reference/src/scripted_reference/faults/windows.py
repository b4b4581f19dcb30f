"""Faults of the window pool: slots that come back too late or too early, or in one pool only."""

from __future__ import annotations

from scripted_reference.admission import PrefillAdder
from scripted_reference.faults.fault import Area, seeded
from scripted_reference.hybrid_memory import HybridTokenAllocator
from scripted_reference.memory import IntArray
from scripted_reference.request import Req
from scripted_reference.swa_radix import SwaRadixCache
from scripted_reference.tree_node import NO_SLOTS, TreeNode

_HERE = Area.WINDOWS


@seeded(
    "window-never-left",
    _HERE,
    stands_for="an eviction of what left the window that only the prefill path calls",
)
class WindowNeverLeft(SwaRadixCache):
    """A slot that has left the window is not given back before its request ends."""

    def leave_window(self, req: Req) -> IntArray:
        """Keep all."""
        return NO_SLOTS


@seeded(
    "window-left-too-early",
    _HERE,
    stands_for="a window that counts the newest token twice, or not at all",
)
class WindowLeftTooEarly(SwaRadixCache):
    """A slot is given back while the next token still sees it."""

    def leave_window(self, req: Req) -> IntArray:
        """Take the window for one token shorter."""
        self.reach -= 1
        try:
            return super().leave_window(req)
        finally:
            self.reach += 1


@seeded(
    "one-pool-counted",
    _HERE,
    stands_for="a budget of the full pool that stands for both",
)
class OnePoolCounted(PrefillAdder):
    """The next chunk of a prompt is admitted by the room in the full pool alone."""

    def add_chunked_req(self, req: Req) -> bool:
        """Forget the window pool."""
        self._window = None
        return super().add_chunked_req(req)


@seeded(
    "window-lock-lost",
    _HERE,
    stands_for="the second of two lock counts, which a path forgets to give back",
)
class WindowLockLost(SwaRadixCache):
    """Window slots of the tree stay locked after the request that needed them."""

    def unlock_window(self, node: TreeNode, start: int) -> None:
        """Keep the lock."""


@seeded(
    "prefix-without-its-window",
    _HERE,
    stands_for="a match that looks at the full pool only: tombstones taken for tokens",
)
class PrefixWithoutItsWindow(SwaRadixCache):
    """A cached prefix is gone on from although its window slots were given up."""

    def usable_len(self, indices: IntArray) -> int:
        """Take all of it."""
        return len(indices)


@seeded(
    "hold-takes-both-pools",
    _HERE,
    stands_for="an operation on one pool that goes through the allocator of both",
)
class HoldTakesBothPools(HybridTokenAllocator):
    """Pages that are held of the full pool take window pages with them."""

    def alloc_alone(self, need_tokens: int) -> IntArray | None:
        """Take of both."""
        return self.alloc(need_tokens)
