"""A prefill/decode pair behind ``EngineAdapter`` and ``PdPort``."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import msgspec
from scripted_core.capabilities import Capability
from scripted_core.ops import (
    Abort,
    AbortAll,
    Continue,
    ControlReceipt,
    Flush,
    OnSide,
    PairOp,
    Pause,
    Transfer,
)
from scripted_core.views import (
    KvChunkView,
    PdStage,
    QueueView,
    RequestStatus,
    RequestView,
    Side,
)

from scripted_reference import messages
from scripted_reference.adapter import ReferenceAdapter, request_view
from scripted_reference.engine import Engine
from scripted_reference.pd.engine import PdEngine
from scripted_reference.pd.transfer import KvTransfer
from scripted_reference.pools import ReferenceRowPool
from scripted_reference.request import Req
from scripted_reference.scheduler import Scheduler

_WAITING = frozenset({PdStage.QUEUED, PdStage.TRANSFERRED, PdStage.RETRACTED})


@dataclass(frozen=True)
class PairSideView:
    """One engine of the pair, to look at."""

    scheduler: Scheduler
    pool: str

    @property
    def is_paused(self) -> bool:
        """Whether a pause is in force here."""
        return self.scheduler.paused is not None

    def queues(self) -> QueueView:
        """The rids in its queues: those with memory run, those without wait."""
        scheduler = self.scheduler
        chunked = scheduler.chunked_req
        running = [req.rid for req in scheduler.owners() if req is not chunked]
        return QueueView(
            waiting=tuple(
                rid for rid, req in scheduler.requests.items() if req.req_pool_idx is None
            ),
            running=tuple(running),
            chunked=() if chunked is None else (chunked.rid,),
        )

    def request(self, rid: str) -> RequestView | None:
        """Its own view of one live request."""
        req = self.scheduler.find_req(rid)
        return None if req is None else request_view(req, (self.scheduler,))


@dataclass(frozen=True)
class TransferView:
    """A KV transfer, to look at; `where` says where a request is."""

    transfer: KvTransfer
    where: Callable[[str], PdStage]

    @property
    def is_held(self) -> bool:
        """Whether a script holds it."""
        return self.transfer.is_held

    @property
    def waits_for_script(self) -> bool:
        """Whether it is held, or a chunk is delayed."""
        return self.transfer.waits_for_script

    @property
    def delivered(self) -> int:
        """Chunks that the decode engine has taken."""
        return self.transfer.delivered

    @property
    def rejected(self) -> Sequence[str]:
        """Why chunks were refused."""
        return tuple(self.transfer.rejected)

    def pending(self) -> Sequence[KvChunkView]:
        """Chunks on their way, in the order of delivery."""
        return [chunk.view() for chunk in self.transfer.pending]

    def stage(self, rid: str) -> PdStage:
        """Where a request is."""
        return self.where(rid)


class PdAdapter(ReferenceAdapter):
    """Both engines of a pair under one script; ``scheduler`` is the decode engine's."""

    def __init__(self, engine: PdEngine) -> None:
        super().__init__(engine)
        self.pair = engine
        self.quiesce_steps = 1 + self.quiesce_steps
        self.capabilities |= {Capability.PD_PREFILL, Capability.PD_DECODE}
        tree = not engine.prefill.server_args.disable_radix_cache
        if tree:
            self.capabilities |= {Capability.PREFIX_CACHE, Capability.LOCK_REFS}
        # Rows are those of the engine that has each request the longest.
        self.rows = ReferenceRowPool((engine.decode,))
        self._transfer = TransferView(engine.transfer, engine.stage)

    @property
    def transfer(self) -> TransferView:
        """The KV transfer."""
        return self._transfer

    def side(self, side: Side) -> PairSideView:
        """One of the two engines."""
        decode_pool, prefill_pool = self.pair.pool_names
        if side is Side.DECODE:
            return PairSideView(self.pair.decode, decode_pool)
        return PairSideView(self.pair.prefill, prefill_pool)

    def control_pair(self, op: PairOp) -> ControlReceipt:
        """Post an operation for one engine, or for the transfer."""
        receipt = ControlReceipt(op)
        if isinstance(op, Transfer):
            transfer = self.pair.transfer
            self.engine.post(messages.EngineReq(lambda _: transfer.apply(op)))
        else:
            self._post_to_side(op, receipt)
        self.engine.post(messages.EngineReq(lambda _: receipt.settle(True)))
        return receipt

    def _post_to_side(self, op: OnSide, receipt: ControlReceipt) -> None:
        scheduler = self.side(op.side).scheduler
        message: messages.Message
        match op.op:
            case Pause(mode=mode):
                message = messages.PauseReq(messages.PauseMode(mode.value))
            case Continue():
                message = messages.ContinueReq()
            case Abort(rid=rid):
                message = messages.AbortReq(rid)
            case AbortAll():
                message = messages.AbortReq(None)
            case Flush():
                message = messages.FlushCacheReq(
                    lambda ok: receipt.settle(ok, "" if ok else "the engine is not idle")
                )

        def deliver(_: Engine) -> None:
            scheduler.process_input_requests([message])

        self.engine.post(messages.EngineReq(deliver))

    # -- state ---------------------------------------------------------------------------------

    @property
    def is_paused(self) -> bool:
        """Whether a pause is in force in either engine."""
        return any(scheduler.paused is not None for scheduler in self.engine.schedulers)

    def queues(self) -> QueueView:
        """The rids by what becomes of them: waiting for somebody, computed or moved, mid-chunk."""
        chunked = self.chunked_rids()
        stages = {rid: self.pair.stage(rid) for rid in self.engine.requests if rid not in chunked}
        return QueueView(
            waiting=tuple(rid for rid, stage in stages.items() if stage in _WAITING),
            running=tuple(rid for rid, stage in stages.items() if stage not in _WAITING),
            chunked=chunked,
        )

    def live_outputs(self) -> Iterator[tuple[str, Sequence[int]]]:
        """Rid and output of every request that the decode engine has."""
        return ((rid, req.output_ids) for rid, req in self.pair.decode.requests.items())

    def begin_hold(self) -> None:
        """A script begins: the transfer runs by itself."""
        super().begin_hold()
        self.pair.transfer.release_controls()

    def view_of(self, req: Req) -> RequestView:
        """What a script sees of a request, wherever it is."""
        stage = self.pair.stage(req.rid)
        own = request_view(req, self.engine.schedulers)
        other = self.pair.prefill.find_req(req.rid)
        ahead = other if other is not None and other.req_pool_idx is not None else None
        computed = own.prompt_len
        if stage in (PdStage.QUEUED, PdStage.PREFILLING):
            computed = 0 if ahead is None else min(ahead.kv_committed_len, own.prompt_len)
        return msgspec.structs.replace(
            own,
            status=RequestStatus.WAITING if stage in _WAITING else RequestStatus.RUNNING,
            computed_tokens=computed,
            lock_refs=0 if ahead is None or ahead.last_node is None else ahead.last_node.lock_ref,
            is_chunking=other is not None and other is self.pair.prefill.chunked_req,
        )
