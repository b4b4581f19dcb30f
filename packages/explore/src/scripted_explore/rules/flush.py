"""Rule `flush`: a flush of an idle engine empties the tree, and one of a busy engine does nothing."""

from __future__ import annotations

from typing import Any

from scripted_core.capabilities import Capability

from scripted_explore.operations import Flush, Op
from scripted_explore.world import Rule


class FlushRule(Rule):
    """What a flush says is what it did; looked at where nothing else met it in its iteration."""

    def __init__(self, world: Any) -> None:
        super().__init__(world)
        self._pending: tuple[Any, bool] | None = None

    def posted(self, op: Op, result: Any) -> None:
        """Note whether the engine was idle."""
        world = self.world
        self._pending = None
        # At the first boundary the reset before it is still on its way.
        alone = len(world.boundary) == 1 and world.step > 0
        if isinstance(op, Flush) and alone and world.pause is None:
            self._pending = result

    def after(self) -> None:
        """Compare with what it says."""
        if self._pending is None:
            return
        (receipt, was_idle), self._pending = self._pending, None
        world = self.world
        if world.locked or world.side_paused or len(world.boundary) > 1:
            return
        if receipt.ok and not was_idle:
            world.broken("flush", "a flush succeeded while the engine was not idle")
        if not receipt.ok and was_idle:
            world.broken("flush", "a flush of an idle engine was refused")
        if receipt.ok and Capability.PREFIX_CACHE in world.t.capabilities:
            left = len(world.t.get_all_node_lock_refs())
            if left:
                world.broken("flush", f"{left} nodes are in the tree after a flush")
