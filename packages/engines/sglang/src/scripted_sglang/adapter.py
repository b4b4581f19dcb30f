"""SGLang behind ``EngineAdapter``, in one scheduler process."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

from scripted_core.memory_ports import KvPool
from scripted_core.ops import (
    Abort,
    AbortAll,
    Continue,
    ControlOp,
    ControlReceipt,
    Evict,
    Exhaust,
    Flush,
    Pause,
    ReleaseHeld,
)
from scripted_core.requests import ClientStream, ReqSpec
from scripted_core.views import Audit, FinishKind, FinishReason, QueueView, RequestView
from scripted_hook import BatchFacts, EngineEvents, ScriptedTokenizerRecvProxy
from scripted_hook.generate_client import GenerateClient
from scripted_hook.poster import BackgroundHttpPoster
from scripted_hook.ranks import RankEvents, RankNotice

from scripted_sglang import _compat
from scripted_sglang.capabilities import capabilities_of
from scripted_sglang.inbox import Belonging, RankOp, TokenizerSocket, is_notice
from scripted_sglang.memory import SglangKvPool, SglangPrefixTree, SglangRowPool
from scripted_sglang.pipeline import PipelinePause
from scripted_sglang.processes import DETOKENIZER, detokenizer_pid
from scripted_sglang.ranks import RankPlace
from scripted_sglang.state import SchedulerState

ARRIVAL_TIMEOUT_S = 20.0
# The handshake must not take five seconds, or the session takes the scheduler for one without hooks.
DETOKENIZER_IN_HANDSHAKE_S = 3.0
DETOKENIZER_BEFORE_SCRIPT_S = 20.0
_HTTP_PATHS: dict[type, tuple[str, str]] = {
    Pause: ("/pause_generation", "PauseGenerationReqInput"),
    Continue: ("/continue_generation", "ContinueGenerationReqInput"),
    Abort: ("/abort_request", "AbortReq"),
    AbortAll: ("/abort_request", "AbortReq"),
    Flush: ("/flush_cache", "FlushCacheReqInput"),
}


class SglangAdapter:
    """Reads one scheduler, and posts to it through its own inbox.

    ``leads`` says that scripts may run in it: not in one that follows another server's.
    """

    name = "sglang"

    def __init__(self, scheduler: Any, *, version: str, base_url: str, leads: bool = True) -> None:
        self.scheduler = scheduler
        self.version = version
        self.vocab_size = int(scheduler.model_config.vocab_size)
        page_size = int(scheduler.page_size)
        tree = scheduler.tree_cache
        allocators = _compat.kv_allocators(scheduler)
        self.own_pools: Mapping[str, SglangKvPool] = {
            name: SglangKvPool(
                name=name,
                allocator=allocator,
                page_size=page_size,
                evictable_tokens=partial(
                    _compat.evictable_tokens, tree, pool=name, is_hybrid=len(allocators) > 1
                ),
            )
            for name, allocator in allocators.items()
        }
        # Those of another server, which a pair adds, are not in this process.
        self.kv_pools: Mapping[str, KvPool] = self.own_pools
        self.rows = SglangRowPool(scheduler.req_to_token_pool)
        _compat.watch_tree(tree)
        self.prefix_tree = SglangPrefixTree(tree, page_size=page_size)
        self.state = SchedulerState(
            scheduler, pools=dict(self.own_pools), rows=self.rows, tree=self.prefix_tree
        )
        place = RankPlace.of(scheduler)
        self.rank = place.name
        has_inbox = _compat.tokenizer_socket(scheduler) is not None
        self.is_driver = leads and has_inbox and not place.replica
        self.other_ranks = place.others if self.is_driver else {}
        self.independent_ranks = place.independent
        self.pipeline = PipelinePause(scheduler, stages=place.stages)
        self.quiesce_steps = place.stages if place.stages > 1 else 0
        self.capabilities = capabilities_of(scheduler, version=version, pools=self.own_pools)
        self.held_tokens = dict.fromkeys(self.own_pools, 0)
        self.held_rows = 0
        self.fired: dict[str, None] = {}
        self._events: EngineEvents | None = None
        self._rank_events: RankEvents | None = None
        self._front_closed = False
        self._pending_flushes: list[ControlReceipt] = []
        self._belonging = Belonging()
        self.proxy: ScriptedTokenizerRecvProxy | None = None
        self.poster: BackgroundHttpPoster | None = None
        inbox = _compat.tokenizer_socket(scheduler)
        if inbox is not None:
            socket = TokenizerSocket(inbox)
            self.proxy = ScriptedTokenizerRecvProxy(
                underlying=socket, poll_on=socket.socket, parks=self._belonging.is_foreign
            )
        if self.is_driver:
            self.poster = BackgroundHttpPoster(headers=_compat.front_headers(scheduler))
            self._client = GenerateClient(poster=self.poster, base_url=base_url)
            self._base_url = base_url

    # -- lockstep with replicas ----------------------------------------------------------------

    def before_step(self) -> Sequence[BatchFacts]:
        """An iteration has ended; the batches of it that other replicas ran."""
        return ()

    def after_step(self) -> None:
        """The coming iteration may begin; a replica other than the driver waits for that here."""

    def pollables(self) -> tuple[Any, ...]:
        """What wakes a resting scheduler beside its own sockets and the session's wire."""
        return ()

    def saw_batch(self, batch: Any) -> None:
        """A batch is about to run."""

    # -- events --------------------------------------------------------------------------------

    def attach(self, events: EngineEvents) -> None:
        """Start reporting to ``events``."""
        self._events = events
        hook: object = events
        self._rank_events = hook if isinstance(hook, RankEvents) else None

    def report_finish(self, req: Any, reason: FinishReason) -> None:
        """SGLang tells somebody that a request has ended."""
        if self._events is not None:
            self._events.finished(req.rid, reason, list(_compat.outputs_of(req)))

    def apply_rank_op(self, op: RankOp) -> None:
        """A memory operation, or a notice of the driver, has come through SGLang's broadcast."""
        if isinstance(op.op, RankNotice):
            if self._rank_events is not None:
                self._rank_events.apply_rank_notice(op.op)
        elif self._events is not None:
            self._events.apply_memory_op(op.op)

    def tell_ranks(self, notice: RankNotice) -> None:
        """Put a notice into the inbox; it rides SGLang's broadcast."""
        assert self.proxy is not None, "only the driver rank tells"
        self.proxy.inject(RankOp(notice))

    # -- the way in ----------------------------------------------------------------------------

    def submit(self, spec: ReqSpec, client: ClientStream) -> FinishReason | None:
        """Post over HTTP and wait until the tokenizer has put it into the inbox, or refused it."""
        assert self.proxy is not None, "only the driver rank submits"
        self._belonging.clients[spec.rid] = client
        self._client.post(spec, client)

        def ended() -> bool:
            self._client.acknowledge()
            return client.ended

        arrived = self.proxy.wait_until_arrived(
            lambda message: spec.rid in _compat.rids_in(message),
            timeout_s=ARRIVAL_TIMEOUT_S,
            description=f"request {spec.rid!r}",
            wake_fd=self._client.wake_fd,
            cancelled=ended,
        )
        if arrived is not None:
            return None
        return FinishReason(kind=FinishKind.REFUSED, message=client.error or "refused")

    def control(self, op: ControlOp) -> ControlReceipt:
        """Post an operation behind everything that has arrived; it rides SGLang's broadcast."""
        assert self.proxy is not None, "only the driver rank posts"
        receipt = ControlReceipt(op)
        if isinstance(op, Abort) and not self._is_live(op.rid):
            receipt.settle(True, "no live request has this rid")  # SGLang would match by prefix
            return receipt
        self.proxy.inject(self._message(op))
        if isinstance(op, Flush):
            self._pending_flushes.append(receipt)
        else:
            receipt.settle(True)
        return receipt

    def _is_live(self, rid: str) -> bool:
        return self.state.find(rid) is not None or any(
            rid in _compat.rids_in(message) for message in self._incoming()
        )

    def _message(self, op: ControlOp) -> Any:
        from sglang.srt.managers import io_struct

        match op:
            case Pause(mode=mode):
                return io_struct.PauseGenerationReqInput(mode=mode.value)
            case Continue(torch_empty_cache=empty):
                return io_struct.ContinueGenerationReqInput(torch_empty_cache=empty)
            case Abort(rid=rid):
                return io_struct.AbortReq(rid=rid)
            case AbortAll():
                return io_struct.AbortReq(abort_all=True)
            case Flush():
                return _compat.our_flush()
            case Evict() | Exhaust() | ReleaseHeld():
                return RankOp(op)

    def control_http(self, op: ControlOp, *, await_arrival: bool = True) -> ControlReceipt:
        """Send an operation over SGLang's HTTP API, and wait until it is in the inbox.

        An HTTP pause also closes SGLang's front to new requests, until an HTTP continue.
        """
        assert self.proxy is not None, "only the driver rank posts"
        assert self.poster is not None, "the driver rank has an HTTP thread"
        if isinstance(op, (Evict, Exhaust, ReleaseHeld)):
            return self.control(op)  # SGLang has no HTTP call for these
        path, message_type = _HTTP_PATHS[type(op)]
        body: dict[str, Any] = {}
        if isinstance(op, Pause):
            body = {"mode": op.mode.value}
        elif isinstance(op, Abort):
            body = {"rid": op.rid}
        elif isinstance(op, AbortAll):
            body = {"abort_all": True}
        elif isinstance(op, Continue):
            body = {"torch_empty_cache": op.torch_empty_cache}
        receipt = ControlReceipt(op)
        if isinstance(op, (Pause, Continue)):
            self._front_closed = isinstance(op, Pause)
        self._belonging.expected_types.add(message_type)
        self.poster.post(self._base_url + path, body)
        if not await_arrival:
            return receipt
        try:
            self.proxy.wait_until_arrived(
                lambda message: type(message).__name__ == message_type,
                timeout_s=ARRIVAL_TIMEOUT_S,
                description=f"POST {path}",
            )
        finally:
            self._belonging.expected_types.discard(message_type)
        if isinstance(op, Flush):
            self._pending_flushes.append(receipt)
        else:
            receipt.settle(True)
        return receipt

    # -- flush ---------------------------------------------------------------------------------

    def flush_blocked(self) -> bool:
        """SGLang would drop locked nodes with the tree; like any lock, ours keep it from that."""
        return self.prefix_tree.held_locks > 0

    def flushed(self, ok: bool) -> None:
        """SGLang has flushed, which empties its allocators under our holds, or has refused to."""
        if ok:
            for pool in self.own_pools.values():
                pool.take_again()
            self.rows.take_again()
        self.settle_flushes(ok)

    def settle_flushes(self, ok: bool) -> None:
        """The outcome of what was posted is known."""
        for receipt in self._pending_flushes:
            receipt.settle(ok, "" if ok else "the engine is not idle")
        self._pending_flushes.clear()

    # -- state ---------------------------------------------------------------------------------

    @property
    def is_paused(self) -> bool:
        """Whether a pause is in force."""
        return bool(self.scheduler._engine_paused)

    def _incoming(self) -> tuple[Any, ...]:
        """Messages that are in the inbox and not taken up yet."""
        ahead = self.proxy.buffered if self.proxy is not None else ()
        return (*ahead, *_compat.deferred_messages(self.scheduler))

    def is_idle(self) -> bool:
        """No request is waiting or running, nor on its way in."""
        return not self.state.live() and not any(map(_compat.rids_in, self._incoming()))

    def is_fully_idle(self) -> bool:
        """SGLang's own word for it, with nothing in the inbox that it would do anything for."""
        return all(map(is_notice, self._incoming())) and bool(self.scheduler.is_fully_idle())

    def queues(self) -> QueueView:
        """The rids in the scheduler's queues."""
        return self.state.queues()

    def own_queues(self) -> QueueView:
        """Those of this process alone."""
        return self.state.queues()

    def chunked_rids(self) -> tuple[str, ...]:
        """The one request that is part way through its prompt."""
        chunked = self.scheduler.chunked_req
        return () if chunked is None else (chunked.rid,)

    def requests(self) -> Sequence[RequestView]:
        """All live requests."""
        return [self.state.view(req) for req in self.state.live().values()]

    def request(self, rid: str) -> RequestView | None:
        """One live request."""
        req = self.state.find(rid)
        return None if req is None else self.state.view(req)

    def find_native(self, rid: str) -> Any | None:
        """SGLang's own request object."""
        return self.state.find(rid)

    def live_outputs(self) -> Iterator[tuple[str, Sequence[int]]]:
        """Rid and output of every live request."""
        return ((rid, _compat.outputs_of(req)) for rid, req in self.state.live().items())

    def describe_batch(self, batch: Any) -> BatchFacts:
        """A batch in neutral words."""
        return self.state.describe_batch(batch)

    def audit(self) -> Audit:
        """Who owns each page, row and lock."""
        return self.state.audit()

    # -- the rest of the protocol --------------------------------------------------------------

    def declare_held(self, *, pages_by_pool: Mapping[str, int], rows: int) -> None:
        """SGLang's leak check asks for what sessions hold; our hooks on that add these.

        What was held may have come back, as after the end of a request.
        """
        self.held_tokens = {
            name: pages_by_pool.get(name, 0) * pool.page_size
            for name, pool in self.own_pools.items()
        }
        self.held_rows = rows
        _compat.admit_again(self.scheduler)

    def begin_hold(self) -> None:
        """Park what others send."""
        self._belonging.clients.clear()
        if self.proxy is not None:
            self.proxy.hold()

    def end_hold(self) -> None:
        """Let in what others have sent meanwhile, through a front that is open again."""
        self._belonging.expected_types.clear()
        if self._front_closed and self.poster is not None:
            self._front_closed = False
            reply = self.poster.post(self._base_url + "/continue_generation", {})
            reply.result(timeout=ARRIVAL_TIMEOUT_S)
        if self.proxy is not None:
            self.proxy.release()

    def drive_warmup(self) -> None:
        """The server has served nothing yet, and need not have; what leads to clients is there."""
        detokenizer_pid(timeout_s=DETOKENIZER_BEFORE_SCRIPT_S)

    def hooks_fired(self) -> tuple[str, ...]:
        """Attachment points that have fired in this process."""
        return tuple(self.fired)

    def pids(self) -> Mapping[str, int]:
        """This process and the detokenizer; the others have announced themselves."""
        found = {"scheduler": os.getpid()}
        detokenizer = detokenizer_pid(timeout_s=DETOKENIZER_IN_HANDSHAKE_S)
        if detokenizer is not None:
            found[DETOKENIZER] = detokenizer
        return found

    def base_url(self) -> str:
        """Of the HTTP front, as seen from its own machine."""
        return self._base_url

    def server_arguments(self) -> Mapping[str, Any]:
        """Every argument of the server, as SGLang has settled it."""
        return _compat.server_arguments(self.scheduler)

    def close(self) -> None:
        """Let go of the HTTP thread."""
        poster, self.poster = self.poster, None
        if poster is not None:
            poster.close()
            self._client.close()
