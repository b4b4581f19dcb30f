"""A stage as a process: the driver's engine, the followers' loop, and their adapters."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from scripted_core.ops import Evict, Exhaust, MemoryOp, ReleaseHeld
from scripted_hook import EngineEvents, ScriptedSchedulerHook
from scripted_hook.ranks import RankEvents, RankNotice

from scripted_reference import messages
from scripted_reference.adapter import ReferenceAdapter
from scripted_reference.args import ServerArgs
from scripted_reference.engine import Engine
from scripted_reference.pp import wire
from scripted_reference.pp.scheduler import PipelineScheduler
from scripted_reference.pp.sockets import SocketLink
from scripted_reference.pp.stage import Stage
from scripted_reference.scheduler import Scheduler
from scripted_reference.server.adapter import ServerAdapter
from scripted_reference.server.dispatch import generate_req
from scripted_reference.server.wire import Abort, Generate


class StageEngine(Engine):
    """The engine of one process: the scheduler of one stage. On the driver it begins each iteration."""

    def __init__(self, args: ServerArgs, *, stage: Stage, link: SocketLink) -> None:
        self.stage = stage
        self.link = link
        super().__init__(args)

    def make_schedulers(self, args: ServerArgs) -> tuple[PipelineScheduler, ...]:
        """Make the one stage of this process."""
        return (PipelineScheduler(args, stage=self.stage, link=self.link),)

    def iterate(self) -> None:
        """Run one microbatch slot here, and have it run on the stages behind."""
        self.observer.before_receive()
        told = [wire.relayed(message) for message in self.inbox]
        self.link.send_turn([message for message in told if message is not None])
        if self.inbox:
            self._deliver()
        self.scheduler.run_iteration()


class DriverAdapter(ServerAdapter):
    """The first stage behind ``EngineAdapter``: what it posts is relayed to the others."""

    def __init__(self, engine: StageEngine, **options: Any) -> None:
        super().__init__(engine, **options)
        self.rank = engine.stage.name
        # Each stage ends an iteration by itself: all of what it needs is sent within it.
        self.other_ranks: Mapping[str, int] = {
            Stage(index, engine.stage.count).name: 0 for index in range(1, engine.stage.count)
        }

    def tell_ranks(self, notice: RankNotice) -> None:
        """Post a notice for every stage; this one has sent it and knows."""
        self.post(messages.RelayedReq(lambda _: None, relay=notice))

    def post_memory_op(self, op: MemoryOp) -> None:
        """Post a memory operation for every stage."""
        self.post(messages.RelayedReq(lambda scheduler: self._apply(op, scheduler), relay=op))


class FollowerAdapter(ReferenceAdapter):
    """A later stage behind ``EngineAdapter``: no script runs in it."""

    is_driver = False

    def __init__(self, engine: StageEngine) -> None:
        super().__init__(engine)
        self.rank = engine.stage.name
        self.other_ranks: Mapping[str, int] = {}
        self._rank_events: RankEvents | None = None

    def attach(self, events: EngineEvents) -> None:
        """Start reporting to ``events``."""
        super().attach(events)
        self._rank_events = events if isinstance(events, RankEvents) else None

    def tell_ranks(self, notice: RankNotice) -> None:
        """The driver tells."""

    def apply_notice(self, notice: RankNotice) -> None:
        """A script begins or ends on the driver."""
        if self._rank_events is not None:
            self._rank_events.apply_rank_notice(notice)

    def apply_op(self, op: MemoryOp, scheduler: Scheduler) -> None:
        """A memory operation takes effect."""
        self._apply(op, scheduler)

    def pids(self) -> Mapping[str, int]:
        """This process."""
        return {f"scheduler {self.rank}": os.getpid()}


class FollowerLoop:
    """Runs a later stage, one iteration for each that the stage before begins."""

    def __init__(
        self, engine: StageEngine, *, adapter: FollowerAdapter, hook: ScriptedSchedulerHook | None
    ) -> None:
        self._engine = engine
        self._adapter = adapter
        self._hook = hook

    def run(self) -> None:
        """Follow until this process is ended."""
        link = self._engine.link
        while True:
            if self._hook is not None:
                self._hook.step()
            received = link.recv_turn()
            link.send_turn(received)
            for message in received:
                self._deliver(message)
            self._engine.scheduler.run_iteration()

    def _deliver(self, message: wire.StageMessage) -> None:
        scheduler = self._engine.scheduler
        match message:
            case wire.BeginsScript() | wire.EndsScript():
                self._adapter.apply_notice(wire.rank_notice(message))
            case Evict() | Exhaust() | ReleaseHeld():
                self._adapter.apply_op(message, scheduler)
            case _:
                scheduler.process_input_requests([_message(message)])


def _message(
    message: Generate | Abort | wire.PauseStage | wire.ContinueStage | wire.FlushStage,
) -> messages.Message:
    match message:
        case Generate():
            return generate_req(message)
        case Abort(rid=rid, message=text):
            return messages.AbortReq(rid, text)
        case wire.PauseStage(mode=mode):
            return messages.PauseReq(messages.PauseMode(mode))
        case wire.ContinueStage():
            return messages.ContinueReq()
        case wire.FlushStage():
            return messages.FlushCacheReq(lambda _: None)
