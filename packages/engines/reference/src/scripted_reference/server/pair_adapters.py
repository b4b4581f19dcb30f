"""The servers of a prefill/decode pair behind ``EngineAdapter``: scripts run in the decode server."""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import msgspec
from scripted_core.capabilities import Capability
from scripted_core.errors import CapabilityMissing
from scripted_core.memory_ports import KvPool
from scripted_core.ops import (
    ControlOp,
    ControlReceipt,
    Exhaust,
    OnSide,
    PairOp,
    Transfer,
)
from scripted_core.pd_ports import SidePort
from scripted_core.requests import ClientStream, ReqSpec
from scripted_core.views import (
    FinishKind,
    FinishReason,
    PdStage,
    QueueView,
    RequestStatus,
    RequestView,
    Side,
)
from scripted_hook.pair import Partner, stage_of

from scripted_reference import messages
from scripted_reference.pd.adapter import PairSideView, TransferView
from scripted_reference.pd.servers import DecodeServer, PrefillServer
from scripted_reference.server import wire
from scripted_reference.server.adapter import ARRIVAL_TIMEOUT_S, ServerAdapter

_ANY_TIME_S: Final = 1_000_000.0
_WAITING: Final = frozenset({PdStage.QUEUED, PdStage.TRANSFERRED, PdStage.RETRACTED})


class PrefillServerAdapter(ServerAdapter):
    """The prefill server: no script runs in it, and the decode server's says when it iterates."""

    is_driver = False

    def __init__(self, engine: PrefillServer, **options: Any) -> None:
        super().__init__(engine, **options)
        self._server = engine

    def expect(self, rid: str) -> None:
        """This request is the script's own."""
        self._belonging.rids.add(rid)

    def await_arrival(self, rid: str, *, cancelled: Callable[[], bool], wake_fd: int) -> bool:
        """Wait until a request is in the inbox; the decode server has the deadline."""
        arrived = self._inbox.wait_until_arrived(
            lambda message: isinstance(message, wire.Generate) and message.rid == rid,
            timeout_s=_ANY_TIME_S,
            description=f"request {rid!r}",
            wake_fd=wake_fd,
            cancelled=cancelled,
        )
        return arrived is not None

    def pair_stages(self) -> Mapping[str, PdStage]:
        """How far each live request is."""
        return {rid: self._server.stage(req) for rid, req in self.engine.requests.items()}

    def messages_sent(self) -> int:
        """What the decode server has been sent."""
        return self._server.link.sent

    def await_messages(self, count: int) -> None:
        """Wait until what the decode server has sent is there."""
        self._server.link.await_received(count)


class DecodeServerAdapter(ServerAdapter):
    """The decode server with its partner: ``scheduler`` is its own, and there is no other here."""

    kv_pools: Mapping[str, KvPool]

    def __init__(self, engine: DecodeServer, *, partner: Partner, **options: Any) -> None:
        super().__init__(engine, **options)
        self._server = engine
        self.partner = partner
        partner.sent = self.messages_sent
        self.capabilities |= {Capability.PD_PREFILL, Capability.PD_DECODE}
        self.quiesce_steps += 1
        self.kv_pools = ChainMap(partner.pools, dict(self.kv_pools))  # type: ignore[arg-type]
        self._transfer_port = TransferView(engine.transfer, self.stage)

    # -- the pair ------------------------------------------------------------------------------

    @property
    def transfer(self) -> TransferView:
        """The KV transfer."""
        return self._transfer_port

    def side(self, side: Side) -> SidePort:
        """One of the two engines."""
        if side is Side.PREFILL:
            return self.partner.side()
        return PairSideView(self._server.decode, "full")

    def stage(self, rid: str) -> PdStage:
        """Where a request is between the two."""
        return stage_of(self._server.stage(rid), self.partner.view.stages.get(rid))

    def control_pair(self, op: PairOp) -> ControlReceipt:
        """Post an operation for one engine, or for the transfer."""
        if isinstance(op, OnSide):
            return self.partner.post(op.op) if op.side is Side.PREFILL else super().control(op.op)
        return self._control_transfer(op)

    def _control_transfer(self, op: Transfer) -> ControlReceipt:
        receipt = ControlReceipt(op)
        transfer = self._server.transfer

        def apply(_: object) -> None:
            transfer.apply(op)
            receipt.settle(True)

        self.post(messages.CallReq(apply))
        return receipt

    def messages_sent(self) -> int:
        """What the prefill server has been sent."""
        return self._server.link.sent

    def await_messages(self, count: int) -> None:
        """Wait until what the prefill server has sent is there."""
        self._server.link.await_received(count, self._server.transfer)

    # -- the way in ----------------------------------------------------------------------------

    def submit(self, spec: ReqSpec, client: ClientStream) -> FinishReason | None:
        """POST to the router; return when the request is in both inboxes, or was refused."""
        self.partner.expect(spec.rid)
        refusal = super().submit(spec, client)
        if refusal is not None:
            return refusal
        there = self.partner.await_arrival(
            spec.rid,
            ended=lambda: self._has_ended(client),
            wake_fd=self._client.wake_fd,
            timeout_s=ARRIVAL_TIMEOUT_S,
        )
        if there:
            return None
        self.post(messages.AbortReq(spec.rid, "the prefill engine has refused it"))
        return FinishReason(kind=FinishKind.REFUSED, message=self.refusal_of(client))

    def _has_ended(self, client: ClientStream) -> bool:
        self._client.acknowledge()
        return client.ended

    def control(self, op: ControlOp) -> ControlReceipt:
        """Post an operation in both engines; one on a pool, where that is."""
        if self.partner.has_pool(op):
            return self.partner.post(op)
        receipt = super().control(op)
        if not isinstance(op, Exhaust):
            self.partner.post(op, beside=receipt)
        return receipt

    def control_http(self, op: ControlOp, *, await_arrival: bool = True) -> ControlReceipt:
        """The router passes control on, but nobody can tell when it has arrived in both."""
        raise CapabilityMissing(
            f"via='http' for {type(op).__name__.lower()}: a pair of servers takes a script's control "
            "calls through the inboxes alone"
        )

    def begin_hold(self) -> None:
        """Park what others send, here and there, and let the transfer run by itself."""
        super().begin_hold()
        self._server.transfer.release_controls()
        self.partner.hold()

    def end_hold(self) -> None:
        """Let both run free."""
        self.partner.release()
        super().end_hold()

    # -- state ---------------------------------------------------------------------------------

    @property
    def is_paused(self) -> bool:
        """Whether a pause is in force in either engine."""
        return self.scheduler.paused is not None or self.partner.view.is_paused

    def is_idle(self) -> bool:
        """No request is in either engine, nor on its way in."""
        return super().is_idle() and self.partner.view.is_idle

    def is_fully_idle(self) -> bool:
        """Both are idle, with nothing between them."""
        return super().is_fully_idle() and self.partner.view.is_fully_idle

    def chunked_rids(self) -> tuple[str, ...]:
        """Requests part way through their prompts, which is in the prefill engine."""
        return self.partner.view.queues.chunked

    def queues(self) -> QueueView:
        """The rids by what becomes of them: waiting for somebody, computed or moved, mid-chunk."""
        chunked = self.chunked_rids()
        stages = {rid: self.stage(rid) for rid in self._live_rids() if rid not in chunked}
        return QueueView(
            waiting=tuple(rid for rid, stage in stages.items() if stage in _WAITING),
            running=tuple(rid for rid, stage in stages.items() if stage not in _WAITING),
            chunked=chunked,
        )

    def requests(self) -> Sequence[RequestView]:
        """All live requests, those first that the decode engine has."""
        views = (self.request(rid) for rid in self._live_rids())
        return [view for view in views if view is not None]

    def request(self, rid: str) -> RequestView | None:
        """One live request, as both engines know it."""
        own, there = super().request(rid), self.partner.view.request(rid)
        if own is None:
            return there
        stage = self.stage(rid)
        computed = own.prompt_len
        if stage in (PdStage.QUEUED, PdStage.PREFILLING):
            computed = 0 if there is None else there.computed_tokens
        return msgspec.structs.replace(
            own,
            status=RequestStatus.WAITING if stage in _WAITING else RequestStatus.RUNNING,
            computed_tokens=computed,
            lock_refs=0 if there is None else there.lock_refs,
            is_chunking=there is not None and there.is_chunking,
        )

    def _live_rids(self) -> list[str]:
        own = list(self.engine.requests)
        return own + [
            view.rid for view in self.partner.view.requests if view.rid not in self.engine.requests
        ]

    def close(self) -> None:
        """Let go of the HTTP thread and of the partner."""
        super().close()
        self.partner.close()
