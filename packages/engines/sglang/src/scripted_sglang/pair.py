"""SGLang's prefill and decode servers as a pair under one script, behind ``EngineAdapter``.

The script runs in the decode server's scheduler, which leads the prefill server's through
``scripted_hook.pair``. Nothing of that touches SGLang's own transfer.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from scripted_core.capabilities import Capability
from scripted_core.errors import CapabilityMissing
from scripted_core.ops import (
    Abort,
    ControlOp,
    ControlReceipt,
    Evict,
    Exhaust,
    OnSide,
    PairOp,
    Transfer,
    TransferAction,
)
from scripted_core.pd_ports import SidePort
from scripted_core.requests import ClientStream, ReqSpec
from scripted_core.views import (
    FinishKind,
    FinishReason,
    KvChunkView,
    PdStage,
    QueueView,
    RequestView,
    Side,
)
from scripted_core.wire.address import SessionAddress
from scripted_hook import BatchFacts
from scripted_hook.pair import Partner, UncontrolledTransfer, stage_of

from scripted_sglang import _compat
from scripted_sglang.adapter import ARRIVAL_TIMEOUT_S, SglangAdapter
from scripted_sglang.traffic import Traffic

# The script has no live objects of the prefill side, whose tree is the only one there is.
_NOT_OF_A_PAIR = frozenset({Capability.PREFIX_CACHE, Capability.LOCK_REFS})
_OF_A_PAIR = frozenset({Capability.PD_PREFILL, Capability.PD_DECODE})


class PrefillAdapter(SglangAdapter):
    """The prefill server's scheduler, which iterates when the decode server's lets it."""

    def __init__(self, scheduler: Any, *, version: str, base_url: str, traffic: Traffic) -> None:
        super().__init__(scheduler, version=version, base_url=base_url, leads=False)
        self._traffic = traffic

    def expect(self, rid: str) -> None:
        """A request of the script's own, which is not parked when it arrives."""
        self._belonging.clients[rid] = ClientStream()

    def await_arrival(self, rid: str, *, cancelled: Callable[[], bool], wake_fd: int) -> bool:
        """Wait until a request is in the inbox; False when ``cancelled`` says so first."""
        assert self.proxy is not None, "a server of one rank has an inbox"
        arrived = self.proxy.wait_until_arrived(
            lambda message: rid in _compat.rids_in(message),
            timeout_s=ARRIVAL_TIMEOUT_S,
            description=f"request {rid!r}",
            wake_fd=wake_fd,
            cancelled=cancelled,
        )
        return arrived is not None

    def pair_stages(self) -> Mapping[str, PdStage]:
        """How far each live request is."""
        queued = self.state.pair_stages()
        waiting = {req.rid for req in self.scheduler.waiting_queue}
        stages = {rid: PdStage.PREFILLING for rid in self.state.live()}
        return {**stages, **dict.fromkeys(waiting, PdStage.QUEUED), **queued}

    def messages_sent(self) -> int:
        """Messages that went to the decode server; what is being sent is waited for."""
        return self._traffic.sent()

    def await_messages(self, count: int) -> None:
        """Wait until so many of the decode server's have been read here."""
        self._traffic.await_read(count)


class DecodeSide:
    """``t.decode``."""

    pool = "full"

    def __init__(self, adapter: DecodeAdapter) -> None:
        self._adapter = adapter

    @property
    def is_paused(self) -> bool:
        """Whether a pause is in force here."""
        return bool(self._adapter.scheduler._engine_paused)

    def queues(self) -> QueueView:
        """The rids in its queues."""
        return self._adapter.own_queues()

    def request(self, rid: str) -> RequestView | None:
        """Its own view of one live request."""
        return self._adapter.request(rid)


class HeldTransfer(UncontrolledTransfer):
    """SGLang's transfer: the decode server can be kept from knowing that it has ended."""

    def __init__(self, stage: Callable[[str], PdStage], traffic: Traffic) -> None:
        super().__init__(stage)
        self._traffic = traffic

    @property
    def is_held(self) -> bool:  # type: ignore[override]
        """Whether a script holds it."""
        return self._traffic.is_held

    @property
    def waits_for_script(self) -> bool:  # type: ignore[override]
        """Whether a script holds it."""
        return self._traffic.is_held

    def pending(self) -> tuple[KvChunkView, ...]:
        """Chunks are not told apart."""
        return ()

    def apply(self, op: Transfer) -> None:
        """Hold or resume; anything else needs a hand on single chunks."""
        if op.action is TransferAction.HOLD:
            self._traffic.hold()
        elif op.action is TransferAction.RESUME:
            self._traffic.resume()
        else:
            raise CapabilityMissing(
                f"t.transfer.{op.action.value}(): SGLang moves KV by itself; hold() and resume() "
                "are all that it can be kept to",
                hint="run the script on the reference engine",
            )


class DecodeAdapter(SglangAdapter):
    """The decode server's scheduler, in which scripts run, and the prefill server beside it."""

    def __init__(
        self,
        scheduler: Any,
        *,
        version: str,
        base_url: str,
        address: SessionAddress,
        traffic: Traffic,
    ) -> None:
        self.partner = Partner(address, sent=traffic.sent)
        super().__init__(scheduler, version=version, base_url=base_url)
        self.capabilities = (self.capabilities | _OF_A_PAIR) - _NOT_OF_A_PAIR
        self._traffic = traffic
        self._recomputed: list[str] = []
        self._side = DecodeSide(self)
        self.transfer = HeldTransfer(self._stage, traffic)

    # -- the pair ------------------------------------------------------------------------------

    def side(self, side: Side) -> SidePort:
        """One of the two servers."""
        return self.partner.side() if side is Side.PREFILL else self._side

    def _stage(self, rid: str) -> PdStage:
        there = self.partner.view.stages.get(rid)
        here = self.state.pair_stages().get(rid)
        if here is PdStage.TRANSFERRING and there is not None:
            return there  # memory for its KV is there before anything of it has been computed
        if here is None and self.state.find(rid) is not None:
            waiting = any(rid == req.rid for req in self.scheduler.waiting_queue)
            here = PdStage.TRANSFERRED if waiting else PdStage.DECODING
        return stage_of(here, there)

    def control_pair(self, op: PairOp) -> ControlReceipt:
        """An operation on one of the servers, or on the transfer."""
        if isinstance(op, OnSide):
            return self.partner.post(op.op) if op.side is Side.PREFILL else super().control(op.op)
        self.transfer.apply(op)
        receipt = ControlReceipt(op)
        receipt.settle(True)
        return receipt

    def messages_sent(self) -> int:
        """Messages that went to the prefill server."""
        return self._traffic.sent()

    def await_messages(self, count: int) -> None:
        """Wait until so many of the prefill server's have been read here."""
        self._traffic.await_read(count)

    def will_recompute(self, rid: str) -> None:
        """A retracted request is about to be sent to the prefill server once more."""
        self._recomputed.append(rid)

    def before_step(self) -> tuple[BatchFacts, ...]:
        """What was sent in the last iteration to be computed once more has to arrive before the next."""
        for rid in self._recomputed:
            self.partner.await_arrival(
                rid,
                ended=lambda: False,
                wake_fd=self._client.wake_fd,
                timeout_s=ARRIVAL_TIMEOUT_S,
            )
        self._recomputed.clear()
        return ()

    # -- a script begins and ends --------------------------------------------------------------

    def begin_hold(self) -> None:
        """Take both servers."""
        super().begin_hold()
        self.partner.hold()
        self.kv_pools = {**self.own_pools, **self.partner.pools}

    def end_hold(self) -> None:
        """Let both go."""
        self._traffic.resume()
        self._recomputed.clear()
        self.partner.release()
        super().end_hold()

    def close(self) -> None:
        """Let go of the other server and of the HTTP thread."""
        super().close()
        self.partner.close()

    # -- the way in ----------------------------------------------------------------------------

    def submit(self, spec: ReqSpec, client: ClientStream) -> FinishReason | None:
        """Post it to the router and wait until it is in the inboxes of both servers, or refused."""
        self.partner.expect(spec.rid)
        refusal = super().submit(spec, client)
        if refusal is not None:
            self.partner.post(Abort(spec.rid))  # the other one may have taken it in
            return refusal

        def ended() -> bool:
            self._client.acknowledge()
            return client.ended

        if self.partner.await_arrival(
            spec.rid, ended=ended, wake_fd=self._client.wake_fd, timeout_s=ARRIVAL_TIMEOUT_S
        ):
            return None
        super().control(Abort(spec.rid))
        return FinishReason(kind=FinishKind.REFUSED, message=client.error or "refused")

    def control(self, op: ControlOp) -> ControlReceipt:
        """Post an operation on both servers; on one of them if it is on a pool of that one."""
        if self.partner.has_pool(op) or isinstance(op, Evict):
            return self.partner.post(op)
        receipt = super().control(op)
        if not isinstance(op, Exhaust):
            self.partner.post(op, beside=receipt)
        return receipt

    def control_http(self, op: ControlOp, *, await_arrival: bool = True) -> ControlReceipt:
        """Over HTTP the two servers would take it in iterations of their own."""
        raise CapabilityMissing(
            f"via='http' for {type(op).__name__.lower()}: a pair takes it in one iteration of both "
            "servers, and over HTTP each would in an iteration of its own",
            hint="leave via out",
        )

    # -- state ---------------------------------------------------------------------------------

    @property
    def is_paused(self) -> bool:
        """Whether a pause is in force on either side."""
        return super().is_paused or self.partner.view.is_paused

    def is_idle(self) -> bool:
        """No request is in either server, nor on its way in."""
        return super().is_idle() and self.partner.view.is_idle

    def is_fully_idle(self) -> bool:
        """Both servers say so; SGLang does not count what it keeps to be computed once more."""
        return (
            super().is_fully_idle()
            and not _compat.waits_to_be_recomputed(self.scheduler)
            and self.partner.view.is_fully_idle
        )
