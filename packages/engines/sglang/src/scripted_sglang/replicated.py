"""SGLang with data-parallel replicas behind ``EngineAdapter``: the driver, and the others."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import Any

import msgspec
from scripted_core.capabilities import Capability
from scripted_core.errors import CapabilityMissing, ReplyTimeout
from scripted_core.ops import Abort, ControlOp, ControlReceipt
from scripted_core.requests import ClientStream, ReqSpec
from scripted_core.views import FinishKind, FinishReason, QueueView, RequestView
from scripted_hook import BatchFacts
from scripted_hook.ranks import RankNotice

from scripted_sglang import _compat
from scripted_sglang.adapter import ARRIVAL_TIMEOUT_S, SglangAdapter
from scripted_sglang.inbox import RankOp, wait_for_input
from scripted_sglang.replica_link import End, Hold, Posted, ReplicaLink
from scripted_sglang.replicas import Replicas

_WAIT_S = 1.0


class ReplicatedAdapter(SglangAdapter):
    """The driver: replica 0 with its live objects, and the views of all others.

    Requests without a ``dp_rank`` go to the replicas in turn, beginning at 0 in every script.
    """

    def __init__(self, scheduler: Any, *, version: str, base_url: str, replicas: Replicas) -> None:
        super().__init__(scheduler, version=version, base_url=base_url)
        # Over HTTP a control call goes to every replica by itself, in an iteration of its own.
        self.capabilities = (self.capabilities | {Capability.DP}) - {Capability.HTTP}
        self._replicas = replicas
        self._turn = 0
        self._flushed_here: bool | None = None

    # -- lockstep ------------------------------------------------------------------------------

    def before_step(self) -> Sequence[BatchFacts]:
        """All replicas have ended the iteration: what they tell of it, and the batches they ran."""
        if not self._replicas.is_held:
            return ()
        batches: list[BatchFacts] = []
        flushed: list[bool] = []
        for boundary in self._replicas.await_boundaries().values():
            batches += boundary.batches
            flushed += boundary.flushes
            for end in boundary.ends:
                if self._events is not None:
                    self._events.finished(end.rid, end.reason, end.output_ids)
        if self._flushed_here is not None:
            super().settle_flushes(self._flushed_here and all(flushed))
            self._flushed_here = None
        return batches

    def after_step(self) -> None:
        """The coming iteration is that of every replica."""
        if self._replicas.is_held:
            self._replicas.go()

    def begin_hold(self) -> None:
        """Park what others send, here and there; every replica waits at a boundary."""
        super().begin_hold()
        self._turn = 0
        self._replicas.hold()

    def end_hold(self) -> None:
        """Let in what others have sent meanwhile; every replica runs freely again."""
        self._replicas.go(last=True)
        super().end_hold()

    def tell_ranks(self, notice: RankNotice) -> None:
        """To every replica, for the coming iteration."""
        super().tell_ranks(notice)
        if self._replicas.is_held:
            self._replicas.post(notice)

    # -- the way in ----------------------------------------------------------------------------

    def submit(self, spec: ReqSpec, client: ClientStream) -> FinishReason | None:
        """To the replica that it names, or else the next in turn."""
        replica = spec.dp_rank
        if replica is None:
            replica = self._turn % self._replicas.size
            self._turn += 1
        spec = msgspec.structs.replace(spec, dp_rank=replica)
        if not 0 < replica < self._replicas.size:
            return super().submit(spec, client)
        self._replicas.expect(spec.rid, replica=replica)
        self._client.post(spec, client)
        deadline = time.monotonic() + ARRIVAL_TIMEOUT_S
        while (left_s := deadline - time.monotonic()) > 0:
            if self._replicas.has_arrived(
                spec.rid, replica=replica, wake_fd=self._client.wake_fd, timeout_s=left_s
            ):
                return None
            self._client.acknowledge()
            if client.ended:
                return FinishReason(kind=FinishKind.REFUSED, message=client.error or "refused")
        raise ReplyTimeout(
            f"request {spec.rid!r} did not arrive at replica {replica} within "
            f"{ARRIVAL_TIMEOUT_S:g} s",
            hint="the engine's front or the replica may be stuck",
        )

    def control(self, op: ControlOp) -> ControlReceipt:
        """To every replica, for the coming iteration; an abort to the one that has the request."""
        if isinstance(op, Abort):
            replica = self._replicas.replica_of(op.rid)
            if replica is None:
                return super().control(op)
            self._replicas.post(op, only=replica)
            receipt = ControlReceipt(op)
            receipt.settle(True)
            return receipt
        if self._replicas.is_held:
            self._replicas.post(op)
        return super().control(op)

    def control_http(self, op: ControlOp, *, await_arrival: bool = True) -> ControlReceipt:
        """Not with several replicas."""
        raise CapabilityMissing("control over HTTP reaches each replica in an iteration of its own")

    def settle_flushes(self, ok: bool) -> None:
        """Known once the other replicas have said the same."""
        if self._replicas.is_held:
            self._flushed_here = ok
        else:
            super().settle_flushes(ok)

    def close(self) -> None:
        """Let go of the HTTP thread and of the replicas."""
        super().close()
        self._replicas.close()

    # -- state ---------------------------------------------------------------------------------

    def is_idle(self) -> bool:
        """On every replica."""
        return super().is_idle() and self._replicas.is_idle

    def is_fully_idle(self) -> bool:
        """On every replica."""
        return super().is_fully_idle() and self._replicas.is_fully_idle

    def queues(self) -> QueueView:
        """Replica after replica."""
        views = [super().queues(), *(one.queues for one in self._replicas.boundaries)]
        return QueueView(
            waiting=tuple(rid for view in views for rid in view.waiting),
            running=tuple(rid for view in views for rid in view.running),
            chunked=tuple(rid for view in views for rid in view.chunked),
        )

    def chunked_rids(self) -> tuple[str, ...]:
        """At most one of each replica."""
        return self.queues().chunked

    def requests(self) -> Sequence[RequestView]:
        """Replica after replica."""
        views = list(super().requests())
        for boundary in self._replicas.boundaries:
            views += boundary.requests
        return views

    def request(self, rid: str) -> RequestView | None:
        """One live request, wherever it is."""
        return super().request(rid) or self._replicas.request(rid)

    def live_outputs(self) -> Iterator[tuple[str, Sequence[int]]]:
        """Replica after replica."""
        yield from super().live_outputs()
        for boundary in self._replicas.boundaries:
            yield from boundary.outputs.items()

    def describe_batch(self, batch: Any) -> BatchFacts:
        """Another replica tells of its batches in these words already."""
        return batch if isinstance(batch, BatchFacts) else super().describe_batch(batch)


class ReplicaAdapter(SglangAdapter):
    """Another replica: while a script runs, it iterates when the driver says so."""

    def __init__(self, scheduler: Any, *, version: str, link: ReplicaLink) -> None:
        super().__init__(scheduler, version=version, base_url="")
        self._link = link

    def report_finish(self, req: Any, reason: FinishReason) -> None:
        """The driver gets to know at the boundary."""
        self._link.on_end(End(req.rid, reason, tuple(_compat.outputs_of(req))))

    def saw_batch(self, batch: Any) -> None:
        """The driver gets to know at the boundary."""
        if self._link.is_held:
            self._link.on_batch(self.describe_batch(batch))

    def settle_flushes(self, ok: bool) -> None:
        """The driver gets to know at the boundary."""
        self._link.on_flush(ok)
        super().settle_flushes(ok)

    def pollables(self) -> tuple[Any, ...]:
        """What to wake up for between scripts."""
        return () if self._link.is_held else (self._link.socket,)

    def after_step(self) -> None:
        """Wait until the driver lets it go; what arrives meanwhile waits in its order."""
        link = self._link
        if not link.is_held:
            if not isinstance(link.receive(), Hold):
                return
            link.is_held = True
            self.begin_hold()
        link.tell_boundary(self)
        assert self.proxy is not None, "requests reach every replica"
        while (go := link.next_go(self.proxy, self._belonging)) is None:
            wait_for_input(
                [link.socket, _compat.tokenizer_socket(self.scheduler)], timeout_s=_WAIT_S
            )
        for op in go.posted:
            self._take_up(op)
        if go.last:
            link.is_held = False
            self.end_hold()

    def _take_up(self, op: Posted) -> None:
        assert self.proxy is not None, "requests reach every replica"
        if isinstance(op, RankNotice):
            self.proxy.inject(RankOp(op))
        else:
            self.control(op)
