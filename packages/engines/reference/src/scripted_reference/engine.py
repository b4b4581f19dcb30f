"""The whole engine in one process: a scheduler for each data-parallel replica, in lockstep."""

from __future__ import annotations

import functools
from collections import deque
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from scripted_reference.args import ServerArgs
from scripted_reference.messages import EngineReq, FlushCacheReq, GenerateReq, Message
from scripted_reference.observer import NoObserver, SchedulerObserver
from scripted_reference.request import Req
from scripted_reference.scheduler import Scheduler

if TYPE_CHECKING:
    from scripted_reference.kv_watch import EngineKvWatch


class Engine:
    """All scheduler replicas of one configuration: one `iterate` is one iteration of each.

    Attributes:
        server_args: the configuration.
        schedulers: the replicas, by rank; each has its own model, KV pool, rows and prefix tree.
        inbox: what was posted; the coming iteration delivers it in order.
    """

    def __init__(self, args: ServerArgs, *, observer: SchedulerObserver | None = None) -> None:
        self.server_args = args
        self.schedulers: tuple[Scheduler, ...] = self.make_schedulers(args)
        self.inbox: deque[Message | EngineReq] = deque()
        self._next_rank = 0
        self.observer = observer or NoObserver()
        if args.inject_fault is not None:
            from scripted_reference.faults.catalogue import inject  # it imports this module

            inject(args.inject_fault, self)

    @functools.cached_property
    def kv(self) -> EngineKvWatch:
        """The KV of this process for somebody who watches it."""
        from scripted_reference.kv_watch import EngineKvWatch  # it knows every kind of scheduler

        return EngineKvWatch(self)

    def make_schedulers(self, args: ServerArgs) -> tuple[Scheduler, ...]:
        """Return a new scheduler for each replica."""
        kind = Scheduler
        if args.speculative_algorithm is not None:
            from scripted_reference.speculation.scheduler import SpeculativeScheduler

            kind = SpeculativeScheduler
        return tuple(kind(args) for _ in range(args.dp_size))

    @property
    def pool_names(self) -> tuple[str, ...]:
        """The name of each scheduler's KV pool: `"full"`, `"full@1"`, ..."""
        return tuple(
            "full" if rank == 0 else f"full@{rank}" for rank in range(len(self.schedulers))
        )

    @property
    def watch_names(self) -> tuple[str, ...]:
        """What a watcher of the KV calls each scheduler's pool."""
        return self.pool_names

    @property
    def observer(self) -> SchedulerObserver:
        """Who is told of iterations, batches, outputs and finishes of every replica."""
        return self._observer

    @observer.setter
    def observer(self, observer: SchedulerObserver) -> None:
        self._observer = observer
        for scheduler in self.schedulers:
            scheduler.observer = observer

    @property
    def scheduler(self) -> Scheduler:
        """Replica 0."""
        return self.schedulers[0]

    @property
    def requests(self) -> Mapping[str, Req]:
        """Every live request by rid: replica after replica, in order of arrival in each."""
        if len(self.schedulers) == 1:
            return self.scheduler.requests
        return {
            rid: req for scheduler in self.schedulers for rid, req in scheduler.requests.items()
        }

    def post(self, message: Message | EngineReq) -> None:
        """Put a message into the inbox; let `validate` see a `GenerateReq` before.

        A request goes to its `dp_rank`, or else to the replicas in turn; every other message to all.
        A flush is answered once, with whether all of them did it.
        """
        self.inbox.append(message)

    def validate(self, spec: GenerateReq) -> str | None:
        """Return why a request is refused before it is posted, or `None` if it is not."""
        size = len(self.schedulers)
        if spec.dp_rank is not None and not 0 <= spec.dp_rank < size:
            return f"dp_rank is 0 to {size - 1} here (dp_size={size}), got {spec.dp_rank}."
        if spec.rid in self.requests or any(
            isinstance(message, GenerateReq) and message.rid == spec.rid for message in self.inbox
        ):
            return f"The request id {spec.rid!r} is in use by a live request."
        return self.scheduler.validate(spec)

    def iterate(self) -> None:
        """Run exactly one iteration of every replica."""
        self._observer.before_receive()
        if self.inbox:
            self._deliver()
        self.run_schedulers()

    def run_schedulers(self) -> None:
        """Let each scheduler run its part of the iteration."""
        for scheduler in self.schedulers:
            scheduler.run_iteration()

    def all_schedulers(self) -> tuple[Scheduler, ...]:
        """Return every scheduler in this process: here one for each replica."""
        return self.schedulers

    @property
    def sockets(self) -> tuple[Any, ...]:
        """Sockets beside the inbox on which something may come: none but of a pair of servers."""
        return ()

    @property
    def waits_for_partner(self) -> bool:
        """Whether there is work of which nothing can be done until something comes there."""
        return False

    def extra_parts(self) -> tuple[object, ...]:
        """Return what an engine consists of beside its schedulers, for faults to be put into."""
        return ()

    @property
    def is_idle(self) -> bool:
        """Whether no replica has a live request."""
        return all(scheduler.is_idle for scheduler in self.schedulers)

    def is_fully_idle(self) -> bool:
        """Return whether the engine is idle, with nothing in flight and nothing on its way in."""
        return not self.inbox and all(scheduler.is_fully_idle() for scheduler in self.schedulers)

    def restart_turns(self) -> None:
        """Let the next request without a `dp_rank` go to replica 0, as in a new engine."""
        self._next_rank = 0

    def _deliver(self) -> None:
        """Let the messages take effect, in order; those behind one that fails stay in the inbox."""
        pending = deque(self.inbox)
        self.inbox.clear()
        try:
            while pending:
                self._deliver_one(pending.popleft())
        finally:
            self.inbox.extendleft(reversed(pending))

    def _deliver_one(self, message: Message | EngineReq) -> None:
        if isinstance(message, GenerateReq):
            self.deliver_request(message)
        elif isinstance(message, EngineReq):
            message.fn(self)
        elif isinstance(message, FlushCacheReq):
            message.reply(self.flush_cache())
        else:
            for scheduler in self.schedulers:
                scheduler.process_input_requests([message])

    def deliver_request(self, message: GenerateReq) -> None:
        """Hand a request to the replica that it goes to."""
        self.schedulers[self._rank_of(message)].process_input_requests([message])

    def flush_cache(self) -> bool:
        """Empty every replica's prefix tree; return `False`, and change nothing, unless all can."""
        return all(scheduler.can_flush() for scheduler in self.schedulers) and all(
            [scheduler.flush_cache() for scheduler in self.schedulers]
        )

    def _rank_of(self, message: GenerateReq) -> int:
        rank = message.dp_rank
        if rank is not None and 0 <= rank < len(self.schedulers):
            return rank
        rank = self._next_rank
        self._next_rank = (rank + 1) % len(self.schedulers)
        return rank
