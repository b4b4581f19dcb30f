"""The reference engine behind ``EngineAdapter``."""

from __future__ import annotations

import functools
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Protocol

from scripted_core.capabilities import Capability
from scripted_core.errors import CapabilityMissing
from scripted_core.kv_watch import CachedSlots, KvGroup, KvWatcher
from scripted_core.memory_ports import KvPool, PrefixTree, RowPool
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
    QueueView,
    RequestStatus,
    RequestView,
)
from scripted_hook import BatchFacts, EngineEvents

from scripted_reference import messages
from scripted_reference._version import __version__
from scripted_reference.args import HASH_MODEL
from scripted_reference.audit import engine_audit
from scripted_reference.engine import Engine
from scripted_reference.pools import (
    ReferencePrefixTree,
    ReferenceRowPool,
    kv_pools_of,
)
from scripted_reference.request import Req, SamplingParams
from scripted_reference.schedule_batch import ScheduleBatch
from scripted_reference.scheduler import Scheduler

_ALWAYS = frozenset(
    {
        Capability.CHUNKED_PREFILL,
        Capability.RETRACT,
        Capability.LENGTH_END_UNCACHED,
        Capability.PAUSE_IN_PLACE,
        Capability.ROW_POOL,
        Capability.SGLANG_NAMES,
    }
)
_MODES = {mode.value: mode for mode in ForwardMode}


class HeldPrefixTree(PrefixTree, Protocol):
    """A prefix tree that knows how many locks exhausters hold."""

    @property
    def held_locks(self) -> int:
        """How many."""


class ReferenceAdapter:
    """Posts into the engine's inbox, and reads its state where the engine itself reads it.

    ``scheduler`` is replica 0; queues, requests, rows and prefix tree are those of all replicas.
    """

    name = "reference"
    version = __version__
    is_driver = True

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.scheduler = engine.scheduler
        self.quiesce_steps = int(self.scheduler.enable_overlap)
        self.capabilities: frozenset[Capability] = _capabilities(engine)
        self.vocab_size = self.scheduler.model.vocab_size
        by_pool = dict(zip(engine.pool_names, engine.schedulers, strict=True))
        self.kv_pools: Mapping[str, KvPool] = kv_pools_of(by_pool)
        self.rows: RowPool = ReferenceRowPool(engine.schedulers)
        self.prefix_tree: HeldPrefixTree = ReferencePrefixTree(
            {name: scheduler.tree_cache for name, scheduler in by_pool.items()}
        )
        self._clients: dict[str, ClientStream] = {}
        self._events: EngineEvents | None = None

    # -- events --------------------------------------------------------------------------------

    def attach(self, events: EngineEvents) -> None:
        """Start reporting to ``events``."""
        self._events = events

    def on_output(self, reqs: Sequence[Req]) -> None:
        """The scheduler reports new output tokens: hand them to the clients that are there."""
        if self._clients:
            for req in reqs:
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
            return_logprob=spec.return_logprob,
            logprob_start_len=-1 if spec.logprob_start_len is None else spec.logprob_start_len,
            top_logprobs_num=spec.top_logprobs_num or 0,
            lora_path=spec.lora_path,
            dp_rank=spec.dp_rank,
        )
        refusal = self.engine.validate(message)
        if refusal is not None:
            client.fail(refusal)
            return FinishReason(kind=FinishKind.REFUSED, message=refusal)
        self._clients[spec.rid] = client
        self.post(message)
        return None

    def post(self, message: messages.Message) -> None:
        """Into the inbox, behind everything that was posted before."""
        self.engine.post(message)

    def control(self, op: ControlOp) -> ControlReceipt:
        """Post an operation; its receipt is settled when the scheduler takes it out."""
        receipt = ControlReceipt(op)
        match op:
            case Pause(mode=mode):
                self.post(messages.PauseReq(messages.PauseMode(mode.value)))
            case Continue():
                self.post(messages.ContinueReq())
            case Abort(rid=rid):
                self.post(messages.AbortReq(rid))
            case AbortAll():
                self.post(messages.AbortReq(None))
            case Flush():
                self.post(
                    messages.FlushCacheReq(
                        lambda ok: receipt.settle(ok, "" if ok else "the engine is not idle")
                    )
                )
                return receipt
            case Evict() | Exhaust() | ReleaseHeld():
                self.post_memory_op(op)
        self.post(messages.CallReq(lambda _: receipt.settle(True)))
        return receipt

    def post_memory_op(self, op: MemoryOp) -> None:
        """Into the inbox, to be applied when it comes out."""
        self.post(messages.CallReq(functools.partial(self._apply, op)))

    def control_http(self, op: ControlOp, *, await_arrival: bool = True) -> ControlReceipt:
        """There is no HTTP front in this process."""
        raise CapabilityMissing(f"{op}: an in-process engine has no HTTP front")

    def _apply(self, op: MemoryOp, scheduler: Scheduler) -> None:
        # A call reaches every replica; the operation itself is on the memory of all of them.
        if self._events is not None and scheduler is self.scheduler:
            self._events.apply_memory_op(op)

    # -- state ---------------------------------------------------------------------------------

    @property
    def is_paused(self) -> bool:
        """Whether a pause is in force."""
        return self.scheduler.paused is not None

    def is_idle(self) -> bool:
        """No request is waiting or running, nor on its way in."""
        return self.engine.is_idle and not any(
            isinstance(message, messages.GenerateReq) for message in self.engine.inbox
        )

    def is_fully_idle(self) -> bool:
        """Idle with nothing in flight and an empty inbox."""
        return self.engine.is_fully_idle()

    def queues(self) -> QueueView:
        """The rids in the schedulers' queues, replica after replica."""
        schedulers = self.engine.schedulers
        return QueueView(
            waiting=tuple([req.rid for one in schedulers for req in one.waiting_queue]),
            running=tuple([req.rid for one in schedulers for req in one.decoding()]),
            chunked=self.chunked_rids(),
        )

    def chunked_rids(self) -> tuple[str, ...]:
        """The requests that are part way through their prompt: at most one of each replica."""
        return tuple(
            [one.chunked_req.rid for one in self.engine.schedulers if one.chunked_req is not None]
        )

    def requests(self) -> Sequence[RequestView]:
        """All live requests, in order of arrival in each replica."""
        return [self.view_of(req) for req in self.engine.requests.values()]

    def request(self, rid: str) -> RequestView | None:
        """One live request."""
        req = self.find_native(rid)
        return None if req is None else self.view_of(req)

    def find_native(self, rid: str) -> Req | None:
        """The engine's own request object."""
        return self.engine.requests.get(rid)

    def live_outputs(self) -> Iterator[tuple[str, Sequence[int]]]:
        """Rid and output of every live request."""
        return ((rid, req.output_ids) for rid, req in self.engine.requests.items())

    def view_of(self, req: Req) -> RequestView:
        """What a script sees of one live request."""
        return request_view(req, self.engine.schedulers)

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
        return engine_audit(self.engine, held_locks=self.prefix_tree.held_locks)

    # -- for a watcher of the KV (scripted_core.kv_watch.KvWatchPort) ---------------------------

    @property
    def kv_watcher(self) -> KvWatcher | None:
        """Who watches."""
        return self.engine.kv.kv_watcher

    def kv_watch_settings(self) -> Mapping[str, object]:
        """What the engine arguments say of a canary."""
        return self.engine.kv.kv_watch_settings()

    def kv_groups(self) -> Sequence[KvGroup]:
        """The pools of this process."""
        return self.engine.kv.kv_groups()

    def watch_kv(self, watcher: KvWatcher | None) -> None:
        """Tell ``watcher`` of every forward and copy from now on."""
        self.engine.kv.watch_kv(watcher)

    def cached_slots(self, storage: str) -> CachedSlots | None:
        """What a prefix tree holds of a pool."""
        return self.engine.kv.cached_slots(storage)

    def forwards_total(self, group: str) -> int:
        """Forwards of a model since the start."""
        return self.engine.kv.forwards_total(group)

    # -- the rest of the protocol --------------------------------------------------------------

    def declare_held(self, *, pages_by_pool: Mapping[str, int], rows: int) -> None:
        """Nothing to tell: the engine's own leak check counts its holds."""

    def begin_hold(self) -> None:
        """Nothing arrives here that the script has not posted; it begins at replica 0."""
        self.engine.restart_turns()

    def end_hold(self) -> None:
        """Requests that the script left behind keep their clients until they end."""

    def drive_warmup(self) -> None:
        """Nothing has to be warm."""

    def hooks_fired(self) -> tuple[str, ...]:
        """The observer is called directly."""
        return ("before_receive", "on_run_batch", "on_output", "on_finish")

    def pids(self) -> Mapping[str, int]:
        """This process."""
        return {"engine": os.getpid()}

    def close(self) -> None:
        """Nothing to let go of."""
        self._clients.clear()


def request_view(req: Req, schedulers: Sequence[Scheduler]) -> RequestView:
    """What the schedulers know of a request that is in one of them."""
    has_memory = req.req_pool_idx is not None
    return RequestView(
        rid=req.rid,
        status=RequestStatus.RUNNING if has_memory else RequestStatus.WAITING,
        prompt_len=len(req.origin_input_ids),
        output_len=len(req.output_ids),
        computed_tokens=min(len(req.origin_input_ids), req.kv_committed_len),
        kv_pages=-(-req.kv_allocated_len // schedulers[0].page_size),
        lock_refs=0 if req.last_node is None else req.last_node.lock_ref,
        is_chunking=any(req is one.chunked_req for one in schedulers),
        priority=req.priority,
    )


def _capabilities(engine: Engine) -> frozenset[Capability]:
    args, model = engine.server_args, engine.scheduler.model
    by_condition = {
        Capability.PREFIX_CACHE: not args.disable_radix_cache,
        Capability.LOCK_REFS: not args.disable_radix_cache,
        Capability.PRIORITY: args.enable_priority_scheduling,
        Capability.OVERLAP: not args.disable_overlap_schedule,
        Capability.DP: args.dp_size > 1,
        Capability.PP: args.pp_size > 1,
        Capability.SPEC_DECODE: args.speculative_algorithm is not None,
        Capability.SWA: engine.scheduler.memory.window is not None,
        Capability.LOGPROBS: model.supports_logprobs,
        Capability.LORA: bool(model.lora_names),
        Capability.CLOSED_FORM_OUTPUT: args.model_path == HASH_MODEL,
    }
    return _ALWAYS | {capability for capability, there in by_condition.items() if there}
