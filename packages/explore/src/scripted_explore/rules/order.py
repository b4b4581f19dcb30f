"""Rule `order`: requests are served as the policy says, where they belong, and no more than fit."""

from __future__ import annotations

from typing import Any

from scripted_core.capabilities import Capability

from scripted_explore.operations import Op, Start
from scripted_explore.world import Rule, Tracked


class OrderRule(Rule):
    """First come, first served, higher priority first; a pipeline's slot has its share of requests."""

    def __init__(self, world: Any) -> None:
        super().__init__(world)
        self._to_place: list[Tracked] = []

    def posted(self, op: Op, result: Any) -> None:
        """A request that names its replica."""
        if isinstance(op, Start) and isinstance(result, Tracked) and self.world.facts.replicas > 1:
            self._to_place.append(result)

    def after(self) -> None:
        """Look at who has been served first in the last iteration, and at the replicas' queues."""
        world = self.world
        for record in world.records:
            served = []
            for rid in record.extend_rids:
                request = world.by_rid.get(rid)
                if request is not None and request.first_batch is None:
                    request.first_batch = record.step
                    served.append(request)
            # A prompt that is part way through goes on in whatever slot comes next, full or not.
            limit = world.facts.slot_requests
            if limit is not None and len(served) > limit:
                world.broken("order", f"a slot for {limit} requests began with {len(served)}")
            if world.facts.fifo:
                for request in served:
                    self._nobody_was_before(request)
        for request in self._to_place:
            self._is_placed(request)
        self._to_place = []

    def _nobody_was_before(self, served: Tracked) -> None:
        world = self.world
        priorities = Capability.PRIORITY in world.t.capabilities
        for other in world.live.values():
            if other.first_batch is not None or other.abort_posted is not None or other is served:
                continue
            if other.op.rank != served.op.rank or other.posted >= world.step:
                continue
            higher = priorities and other.op.priority > served.op.priority
            same = not priorities or other.op.priority == served.op.priority
            if higher or (same and other.number < served.number):
                world.broken("order", f"{served.rid} was served before {other.rid}")

    def _is_placed(self, request: Tracked) -> None:
        world = self.world
        if request.rid not in world.live:
            return
        ranks = world.t.ranks
        if len(ranks) <= request.op.rank:
            return
        for place, rank in enumerate(ranks):
            here = {*rank.queues.waiting, *rank.queues.running, *rank.queues.chunked}
            if (request.rid in here) != (place == request.op.rank):
                world.broken(
                    "replica", f"{request.rid} was for replica {request.op.rank}, see {rank.rank}"
                )
