"""Rule `cache`: the tree has what was put out and no more, and counts who came by."""

from __future__ import annotations

from scripted_core.capabilities import Capability
from scripted_core.memory_ports import DetailedTree
from scripted_core.views import FinishKind

from scripted_explore import operations as o
from scripted_explore.world import Rule, Tracked

_PLAIN = (o.Start, o.Steps, o.Settle, o.UntilEnd)
_FEW = 3


class CacheRule(Rule):
    """Nodes of known tokens only, and hit counts that are neither stuck nor chunks."""

    def after(self) -> None:
        """Hits of the first few requests, when one of them has just ended."""
        world = self.world
        if not world.ended_now or len(world.requests) > _FEW or world.tree is None:
            return
        if any(not isinstance(op, _PLAIN) for op in world.done) or world.facts.replicas > 1:
            return
        if not world.tree.enabled or world.is_pair:
            return
        hits = world.t.get_all_node_hit_counts().values()
        # A request leaves its prompt and then its output there, and its prompt once more for each time
        # that it gave way for want of memory.
        prefilled = sum(
            len(set(record.extend_rids).difference(record.chunked_rids))
            for record in world.t.batch_log
        )
        most = len(world.requests) + max(len(world.requests), prefilled)
        if hits and max(hits) > most:
            world.broken("hits", f"{len(world.requests)} requests count as {max(hits)} hits")
        ended = [one for one in world.requests if one.reason is not None]
        if hits and not max(hits) and _came_by_twice(ended, self._page_size):
            world.broken("hits", "a prefix was hit, and no node has counted it")

    def at_rest(self) -> None:
        """No node has tokens that no request had."""
        world = self.world
        tree = world.tree
        if tree is None or not tree.enabled or not isinstance(tree, DetailedTree):
            return
        known = [self._kept(request) for request in world.requests]
        for node in tree.details():
            if node.is_leaf and not any(
                one[: len(node.tokens)] == list(node.tokens) for one in known
            ):
                world.broken("cache", f"the tree has {list(node.tokens)}, which nobody left there")

    def _kept(self, request: Tracked) -> list[int]:
        output = request.handle.output_ids
        reason = request.reason
        by_length = reason is not None and reason.kind is FinishKind.LENGTH
        if by_length and Capability.LENGTH_END_UNCACHED in self.world.t.capabilities:
            output = output[:-1]
        return [*request.tokens, *output]

    @property
    def _page_size(self) -> int:
        return self.world.t.engine_stats()["page_size"]


def _came_by_twice(ended: list[Tracked], page_size: int) -> bool:
    """Whether a request began after another one of the same prompt had ended."""
    return any(
        first.tokens == second.tokens
        and len(first.tokens) > page_size
        and first.ended < second.posted
        for first in ended
        for second in ended
    )
