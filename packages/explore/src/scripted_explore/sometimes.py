"""Named states that a campaign has to meet sometimes, or it has not looked there; and all the others.

After Antithesis' "sometimes assertions": a property that need not hold always, but has to be seen.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Any

from scripted_core.capabilities import Capability
from scripted_core.ops import ControlReceipt, TransferAction
from scripted_core.views import FinishKind, PauseMode

from scripted_explore import operations as o
from scripted_explore.report import RunReport
from scripted_explore.world import Tracked, World


class Sometimes(StrEnum):
    """What should have happened at least once."""

    RETRACTION = "a running request went back to the queue"
    RETRACTION_MID_CHUNK = "a request went back to the queue in the middle of its prompt"
    RETRACTION_UNDER_PRESSURE = "a request gave way for want of memory"
    PREEMPTION_MEETS_FINISH = "a finish met a preemption in one iteration"
    PARK = "a chunk was parked"
    ABORT_MID_CHUNK = "an abort met a request in the middle of its prompt"
    ABORT_WAITING = "an abort met a waiting request"
    ABORT_DECODING = "an abort met a decoding request"
    ABORT_PAUSED = "an abort came during a pause"
    PAUSE_MID_CHUNK = "a pause met a chunked prompt"
    CALLS_MEET = "two calls met in one iteration"
    PREFIX_HIT = "a request began behind a cached prefix"
    TREE_SPLIT = "a node of the tree was split"
    EVICTION = "a prefix was evicted for want of memory"
    EVICTION_ASKED = "an eviction dropped something"
    FLUSH_DONE = "a flush succeeded"
    FLUSH_REFUSED = "a flush was refused"
    POOL_EMPTY = "no page was free"
    ROWS_EMPTY = "no request row was free"
    QUEUE = "three requests waited"
    TWINS = "two requests of one prompt ran side by side"
    STOP = "a stop token ended a request"
    PRIORITY = "a higher priority overtook"
    SLOTS_IN_FLIGHT = "a call met batches in flight"
    KV_HELD = "KV was held on its way"
    KV_LOST = "KV was lost on its way"


NEEDS: dict[Sometimes, tuple[Capability, ...]] = {
    Sometimes.PREFIX_HIT: (Capability.PREFIX_CACHE,),
    Sometimes.TREE_SPLIT: (Capability.PREFIX_CACHE,),
    Sometimes.EVICTION: (Capability.PREFIX_CACHE,),
    Sometimes.EVICTION_ASKED: (Capability.PREFIX_CACHE,),
    Sometimes.PRIORITY: (Capability.PRIORITY,),
    Sometimes.SLOTS_IN_FLIGHT: (Capability.PP,),
    Sometimes.KV_HELD: (Capability.PD_DECODE,),
    Sometimes.KV_LOST: (Capability.PD_DECODE,),
}
"""What an engine has to be able to do before a state can be demanded of it."""

_CONTROL = (o.Pause, o.Abort, o.AbortAll, o.Flush, o.Continue)


class Sight:
    """Notes what a world shows, iteration by iteration."""

    def __init__(self, world: World, report: RunReport) -> None:
        self._world = world
        self._report = report
        self._state = 0
        self._chunked: frozenset[str] = frozenset()
        self._running: frozenset[str] = frozenset()
        self._nodes = 0
        self._flush: ControlReceipt | None = None

    def see(self, what: Sometimes) -> None:
        """It happened."""
        counts = self._report.sometimes
        counts[what.value] = counts.get(what.value, 0) + 1

    def posted(self, op: o.Op, result: Any) -> None:
        """An operation was posted."""
        world = self._world
        if len(world.boundary) > 1:
            self.see(Sometimes.CALLS_MEET)
        if isinstance(op, o.Abort) and isinstance(result, Tracked):
            self._abort(result)
        elif isinstance(op, o.Flush):
            self._flush = result[0]
        elif isinstance(op, o.Pause) and self._chunked:
            self.see(Sometimes.PAUSE_MID_CHUNK)
        elif isinstance(op, o.MoveKv):
            if op.action is TransferAction.HOLD:
                self.see(Sometimes.KV_HELD)
            elif op.action is TransferAction.DROP:
                self.see(Sometimes.KV_LOST)
        if isinstance(op, _CONTROL) and world.facts.slots > 1 and self._running:
            self.see(Sometimes.SLOTS_IN_FLIGHT)

    def _abort(self, request: Tracked) -> None:
        rid = request.rid
        if self._world.pause is not None:
            self.see(Sometimes.ABORT_PAUSED)
        if rid in self._chunked:
            self.see(Sometimes.ABORT_MID_CHUNK)
        elif rid in self._running:
            self.see(Sometimes.ABORT_DECODING)
        else:
            self.see(Sometimes.ABORT_WAITING)

    def after(self, boundary: list[o.Op]) -> None:
        """An iteration has passed, which began with these operations."""
        t = self._world.t
        if self._flush is not None:
            self.see(Sometimes.FLUSH_DONE if self._flush.ok else Sometimes.FLUSH_REFUSED)
            self._flush = None
        queues = t.queues
        chunked, running = frozenset(queues.chunked), frozenset(queues.running)
        full = t.engine.kv_pools["full"]
        free, evictable = full.available, full.evictable
        self._requests(queues.waiting, chunked, running)
        if not free:
            self.see(Sometimes.POOL_EMPTY)
        rows = t.engine.rows
        if rows is not None and not rows.available:
            self.see(Sometimes.ROWS_EMPTY)
        if len(queues.waiting) >= 3:
            self.see(Sometimes.QUEUE)
        self._tree(boundary)
        self._chunked, self._running = chunked, running
        state = self._number(len(queues.waiting), len(running), bool(chunked), free, evictable)
        self._report.states.add(state)
        if state != self._state or boundary:
            kinds = hash(tuple(_ORDER[type(op)] for op in boundary[:2]))
            self._report.transitions.add(hash((self._state, kinds, state)))
        self._state = state

    def _requests(
        self, waiting: tuple[str, ...], chunked: frozenset[str], running: frozenset[str]
    ) -> None:
        world = self._world
        back = [rid for rid in waiting if rid in self._running or rid in self._chunked]
        if back:
            self.see(Sometimes.RETRACTION)
            if any(rid in self._chunked for rid in back):
                self.see(Sometimes.RETRACTION_MID_CHUNK)
            if world.pause is None:
                self.see(Sometimes.RETRACTION_UNDER_PRESSURE)
            if any(
                one.reason and one.reason.kind is not FinishKind.ABORT for one in world.ended_now
            ):
                self.see(Sometimes.PREEMPTION_MEETS_FINISH)
        ran = {rid for record in world.records for rid in record.extend_rids}
        if world.pause is None and any(rid in self._chunked and rid not in ran for rid in chunked):
            self.see(Sometimes.PARK)
        for one in world.ended_now:
            if one.reason is not None and one.reason.kind is FinishKind.STOP:
                self.see(Sometimes.STOP)
        if len(running) > 1:
            prompts = [
                (one.op.family, one.op.shared, one.op.own, one.op.own_tokens)
                for one in (world.by_rid.get(rid) for rid in running)
                if one is not None
            ]
            if len(set(prompts)) < len(prompts):
                self.see(Sometimes.TWINS)
        for record in world.records:
            for rid in record.extend_rids:
                self._first_batch(rid, record.step)

    def _first_batch(self, rid: str, step: int) -> None:
        world = self._world
        request = world.by_rid.get(rid)
        if request is None or request.first_batch != step:
            return
        view = world.t.view(rid)
        if view is not None and view.computed_tokens > world.facts.chunk_tokens:
            self.see(Sometimes.PREFIX_HIT)
        if any(
            other.number < request.number
            and other.first_batch is None
            and other.op.priority < request.op.priority
            for other in world.live.values()
        ):
            self.see(Sometimes.PRIORITY)

    def _tree(self, boundary: list[o.Op]) -> None:
        world = self._world
        nodes = world.nodes
        if nodes < self._nodes:
            if any(isinstance(op, (o.EvictAll, o.EvictPrefix)) for op in boundary):
                self.see(Sometimes.EVICTION_ASKED)
            elif not any(isinstance(op, o.Flush) for op in boundary):
                self.see(Sometimes.EVICTION)
        elif nodes > self._nodes + len(world.records) + len(world.ended_now):
            self.see(Sometimes.TREE_SPLIT)
        self._nodes = nodes

    def _number(self, waiting: int, running: int, chunked: bool, free: int, evictable: int) -> int:
        """The state in a few coarse figures, as one number."""
        world = self._world
        pause = world.pause
        mode = 0 if pause is None else (1 if pause.mode is PauseMode.RETRACT else 2)
        number = min(waiting, 3)
        number = number * 5 + min(running, 4)
        number = number * 2 + chunked
        number = number * 3 + mode
        number = number * 4 + (0 if free == 0 else 1 if free < 4 else 2 if free < 16 else 3)
        number = number * 3 + min(evictable, 2)
        number = number * 2 + world.held
        return number * 2 + bool(world.records)


_ORDER = {kind: place for place, kind in enumerate(o.Op.__subclasses__())}
