"""The reference engine behind ``EngineAdapter``."""

from __future__ import annotations

import functools
import os
from collections.abc import Iterator, Mapping, Sequence

from scripted_core.capabilities import Capability
from scripted_core.errors import CapabilityMissing
from scripted_core.ops import (
    Abort,
    AbortAll,
    Continue,
    ControlOp,
    ControlReceipt,
    Evict,
    Exhaust,
    Flush,
    MemoryOp,
    Pause,
    ReleaseHeld,
)
from scripted_core.requests import ClientStream, ReqSpec
from scripted_core.views import (
    Audit,
    FinishKind,
    FinishReason,
    ForwardMode,
    OwnerKind,
    PageClaim,
    PoolAudit,
    QueueView,
    RequestStatus,
    RequestView,
    RowAudit,
)
from scripted_hook import BatchFacts, EngineEvents

from scripted_reference import messages
from scripted_reference._version import __version__
from scripted_reference.ownership import pool_claims, row_claims
from scripted_reference.pools import ReferenceKvPool, ReferencePrefixTree, ReferenceRowPool
from scripted_reference.request import Req, SamplingParams
from scripted_reference.schedule_batch import ScheduleBatch
from scripted_reference.scheduler import Scheduler

_ALWAYS = frozenset(
    {
        Capability.CHUNKED_PREFILL,
        Capability.RETRACT,
        Capability.PAUSE_IN_PLACE,
        Capability.ROW_POOL,
        Capability.SGLANG_NAMES,
        Capability.CLOSED_FORM_OUTPUT,
    }
)
_MODES = {mode.value: mode for mode in ForwardMode}


class ReferenceAdapter:
    """Posts into the scheduler's inbox, and reads its state where the scheduler itself reads it."""

    name = "reference"
    version = __version__
    quiesce_steps = 0
    is_driver = True

    def __init__(self, scheduler: Scheduler) -> None:
        self.scheduler = scheduler
        args = scheduler.server_args
        capabilities = set(_ALWAYS)
        if not args.disable_radix_cache:
            capabilities |= {Capability.PREFIX_CACHE, Capability.LOCK_REFS}
        if args.enable_priority_scheduling:
            capabilities.add(Capability.PRIORITY)
        self.capabilities: frozenset[Capability] = frozenset(capabilities)
        self.vocab_size = scheduler.model.vocab_size
        self.kv_pools: Mapping[str, ReferenceKvPool] = {"full": ReferenceKvPool(scheduler)}
        self.rows = ReferenceRowPool(scheduler)
        self.prefix_tree = ReferencePrefixTree(scheduler)
        self._clients: dict[str, ClientStream] = {}
        self._events: EngineEvents | None = None

    # -- events --------------------------------------------------------------------------------

    def attach(self, events: EngineEvents) -> None:
        """Start reporting to ``events``."""
        self._events = events

    def feed_clients(self) -> None:
        """Hand to each live client the tokens that have come out since the last time."""
        if self._clients:
            for req in self.scheduler.running_batch.reqs:
                self._feed(req)

    def on_finish(self, req: Req) -> None:
        """The scheduler reports an end."""
        assert req.finished_reason is not None
        reason = FinishReason(
            kind=FinishKind(req.finished_reason.kind.value),
            message=req.finished_reason.message or "",
        )
        self._feed(req)
        client = self._clients.pop(req.rid, None)
        if client is not None:
            client.end(reason)
        if self._events is not None:
            self._events.finished(req.rid, reason, req.output_ids)

    def _feed(self, req: Req) -> None:
        client = self._clients.get(req.rid)
        if client is not None:
            received = len(client.token_ids)
            if len(req.output_ids) > received:
                client.receive(req.output_ids[received:])

    # -- the way in ----------------------------------------------------------------------------

    def submit(self, spec: ReqSpec, client: ClientStream) -> FinishReason | None:
        """Validate as a front would, then post: the inbox is this process's own, so it has arrived."""
        message = messages.GenerateReq(
            rid=spec.rid,
            input_ids=spec.input_ids,
            sampling_params=SamplingParams(
                max_new_tokens=spec.max_new_tokens,
                ignore_eos=spec.ignore_eos,
                stop_token_ids=spec.stop_token_ids or (),
                temperature=spec.temperature,
            ),
            priority=spec.priority,
        )
        refusal = self.scheduler.validate(message)
        if refusal is not None:
            client.fail(refusal)
            return FinishReason(kind=FinishKind.REFUSED, message=refusal)
        self._clients[spec.rid] = client
        self.scheduler.inbox.append(message)
        return None

    def control(self, op: ControlOp) -> ControlReceipt:
        """Post an operation; its receipt is settled when the scheduler takes it out."""
        receipt = ControlReceipt(op)
        inbox = self.scheduler.inbox
        match op:
            case Pause(mode=mode):
                inbox.append(messages.PauseReq(messages.PauseMode(mode.value)))
            case Continue():
                inbox.append(messages.ContinueReq())
            case Abort(rid=rid):
                inbox.append(messages.AbortReq(rid))
            case AbortAll():
                inbox.append(messages.AbortReq(None))
            case Flush():
                inbox.append(
                    messages.FlushCacheReq(
                        lambda ok: receipt.settle(ok, "" if ok else "the engine is not idle")
                    )
                )
                return receipt
            case Evict() | Exhaust() | ReleaseHeld():
                inbox.append(messages.CallReq(functools.partial(self._apply, op)))
        inbox.append(messages.CallReq(lambda _: receipt.settle(True)))
        return receipt

    def control_http(self, op: ControlOp, *, await_arrival: bool = True) -> ControlReceipt:
        """There is no HTTP front in this process."""
        raise CapabilityMissing(f"{op}: an in-process engine has no HTTP front")

    def _apply(self, op: MemoryOp, _: Scheduler) -> None:
        if self._events is not None:
            self._events.apply_memory_op(op)

    # -- state ---------------------------------------------------------------------------------

    @property
    def is_paused(self) -> bool:
        """Whether a pause is in force."""
        return self.scheduler.paused is not None

    def is_idle(self) -> bool:
        """No request is waiting or running, nor on its way in."""
        return self.scheduler.is_idle and not any(
            isinstance(message, messages.GenerateReq) for message in self.scheduler.inbox
        )

    def is_fully_idle(self) -> bool:
        """Idle with an empty inbox."""
        return self.scheduler.is_fully_idle()

    def queues(self) -> QueueView:
        """The rids in the scheduler's queues."""
        return QueueView(
            waiting=tuple(req.rid for req in self.scheduler.waiting_queue),
            running=tuple(req.rid for req in self.scheduler.running_batch.reqs),
            chunked=self.chunked_rids(),
        )

    def chunked_rids(self) -> tuple[str, ...]:
        """The one request that is part way through its prompt."""
        chunked = self.scheduler.chunked_req
        return () if chunked is None else (chunked.rid,)

    def requests(self) -> Sequence[RequestView]:
        """All live requests in order of arrival."""
        return [self._view(req) for req in self.scheduler.requests.values()]

    def request(self, rid: str) -> RequestView | None:
        """One live request."""
        req = self.scheduler.find_req(rid)
        return None if req is None else self._view(req)

    def find_native(self, rid: str) -> Req | None:
        """The engine's own request object."""
        return self.scheduler.find_req(rid)

    def live_outputs(self) -> Iterator[tuple[str, Sequence[int]]]:
        """Rid and output of every live request."""
        return ((rid, req.output_ids) for rid, req in self.scheduler.requests.items())

    def _view(self, req: Req) -> RequestView:
        has_memory = req.req_pool_idx is not None
        return RequestView(
            rid=req.rid,
            status=RequestStatus.RUNNING if has_memory else RequestStatus.WAITING,
            prompt_len=len(req.origin_input_ids),
            output_len=len(req.output_ids),
            computed_tokens=min(len(req.origin_input_ids), req.kv_committed_len),
            kv_pages=-(-req.kv_allocated_len // self.scheduler.page_size),
            lock_refs=0 if req.last_node is None else req.last_node.lock_ref,
            is_chunking=req is self.scheduler.chunked_req,
            priority=req.priority,
        )

    def describe_batch(self, batch: ScheduleBatch) -> BatchFacts:
        """A batch in neutral words."""
        rids = tuple([req.rid for req in batch.reqs])
        extends = batch.forward_mode.is_extend()
        chunked = batch.chunked_req
        return BatchFacts(
            _MODES[batch.forward_mode.value],
            rids,
            rids if extends else (),
            (chunked.rid,) if chunked is not None else (),
        )

    def audit(self) -> Audit:
        """Who owns each page, row and lock."""
        scheduler = self.scheduler
        claims = pool_claims(scheduler)
        owners = [
            PageClaim(OwnerKind.FREE, "free", claims.free_pages),
            PageClaim(OwnerKind.TREE, "tree", claims.tree_pages),
        ]
        if len(claims.held_pages):
            owners.append(PageClaim(OwnerKind.HELD, "held", claims.held_pages))
        references = []
        for request in claims.requests:
            owners.append(PageClaim(OwnerKind.REQUEST, request.rid, request.own_pages))
            if len(request.shared_pages):
                references.append(PageClaim(OwnerKind.REQUEST, request.rid, request.shared_pages))
        rows = row_claims(scheduler)
        return Audit(
            pools=(
                PoolAudit(
                    "full",
                    scheduler.page_size,
                    claims.first_page,
                    claims.num_pages,
                    tuple(owners),
                    tuple(references),
                ),
            ),
            rows=RowAudit(0, rows.num_rows, rows.free_rows, rows.held_rows, rows.request_rows),
            lock_refs=[node.lock_ref for node in scheduler.tree_cache.nodes()],
            held_locks=self.prefix_tree.held_locks,
            is_idle=scheduler.is_idle,
        )

    # -- the rest of the protocol --------------------------------------------------------------

    def declare_held(self, *, pages_by_pool: Mapping[str, int], rows: int) -> None:
        """Nothing to tell: the engine's own leak check counts its holds."""

    def begin_hold(self) -> None:
        """Nothing arrives here that the script has not posted."""

    def end_hold(self) -> None:
        """Requests that the script left behind keep their clients until they end."""

    def drive_warmup(self) -> None:
        """Nothing has to be warm."""

    def hooks_fired(self) -> tuple[str, ...]:
        """The observer is called directly."""
        return ("before_receive", "on_run_batch", "on_finish")

    def pids(self) -> Mapping[str, int]:
        """This process."""
        return {"engine": os.getpid()}

    def close(self) -> None:
        """Nothing to let go of."""
        self._clients.clear()
