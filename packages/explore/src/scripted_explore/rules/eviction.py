"""Rule `evict`: what was used last stays longest, and what was not meant stays altogether."""

from __future__ import annotations

from typing import Any

from scripted_core.memory_ports import NodeDetail

from scripted_explore.operations import AbortAll, EvictAll, EvictPrefix, Flush, Op
from scripted_explore.program import key_of
from scripted_explore.world import Rule

_CLEARING = (Flush, EvictAll, EvictPrefix, AbortAll)


class EvictionRule(Rule):
    """Least recently used first, and by prefix that prefix only; for trees that show their nodes."""

    def __init__(self, world: Any) -> None:
        super().__init__(world)
        self._before: dict[Any, NodeDetail] = {}
        self._meant: list[int] | None = None

    def posted(self, op: Op, result: Any) -> None:
        """An eviction by prefix of an idle engine can be judged exactly."""
        world = self.world
        self._meant = None
        was_idle = result
        if isinstance(op, EvictPrefix) and len(world.boundary) == 1 and was_idle:
            self._meant = key_of(op).tokens(world.t.engine.vocab_size)

    def after(self) -> None:
        """Compare the leaves with those of the boundary before."""
        world = self.world
        now = world.details
        if now is None:
            return
        meant, self._meant = self._meant, None
        alone = len(world.boundary) == 1
        before, self._before = self._before, now
        if meant is not None and alone:
            for number, node in before.items():
                if number not in now and list(node.tokens[: len(meant)]) != meant:
                    world.broken("evict", f"evicting one prefix dropped {list(node.tokens)} too")
            return
        if world.facts.replicas > 1 or any(isinstance(op, _CLEARING) for op in world.boundary):
            return
        self._used_last_stays(before, now)

    def _used_last_stays(self, before: dict[Any, NodeDetail], now: dict[Any, NodeDetail]) -> None:
        gone = [
            node
            for number, node in before.items()
            if number not in now and node.is_leaf and not node.lock_ref
        ]
        if not gone:
            return
        newest = max(gone, key=lambda node: node.last_used)
        for number, node in before.items():
            then = now.get(number)
            if (
                then is not None
                and node.is_leaf
                and then.is_leaf
                and not node.lock_ref
                and not then.lock_ref
                and then.last_used == node.last_used < newest.last_used
            ):
                self.world.broken(
                    "evict",
                    f"{list(newest.tokens)} was evicted, and {list(node.tokens)}, which was used "
                    "before it, was kept",
                )
