"""A small engine with everything that an adapter has to offer, in one thread and without a model.

A next token is a fixed function of the tokens before it, so that the right output is known: see
:func:`~scripted_core.testing.expected_output`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

from scripted_core.capabilities import Capability
from scripted_core.memory_ports import KvPool
from scripted_core.ops import (
    Abort,
    AbortAll,
    Continue,
    ControlOp,
    ControlReceipt,
    Flush,
    MemoryOp,
    Pause,
)
from scripted_core.ports import InProcessHook, bind_port, unbind_port
from scripted_core.requests import ClientStream, ReqSpec
from scripted_core.testing.pools import FakeKvPool, FakeRowPool
from scripted_core.testing.prefix_tree import FakePrefixTree
from scripted_core.testing.request import FakeRequest
from scripted_core.testing.scheduler import FakeBatch, FakeScheduler
from scripted_core.testing.snapshot import audit_of
from scripted_core.views import (
    Audit,
    FinishKind,
    FinishReason,
    PauseMode,
    QueueView,
    RequestStatus,
    RequestView,
)

_CAPABILITIES = frozenset(
    {
        Capability.CHUNKED_PREFILL,
        Capability.RETRACT,
        Capability.PAUSE_IN_PLACE,
        Capability.PREFIX_CACHE,
        Capability.LOCK_REFS,
        Capability.ROW_POOL,
    }
)


class FakeEngineHook(InProcessHook, Protocol):
    """What the engine's loop calls."""

    def step(self) -> None:
        """An iteration is about to begin."""
        ...

    def on_run_batch(self, batch: Any) -> None:
        """A batch is about to run."""
        ...


class FakeEngineEvents(Protocol):
    """What the engine reports to."""

    def finished(self, rid: str, reason: FinishReason, output_ids: Sequence[int]) -> None:
        """A request ended."""
        ...

    def apply_memory_op(self, op: MemoryOp) -> None:
        """A memory operation came out of the inbox."""
        ...


class FakeEngine:
    """An in-process engine and its adapter in one object.

    Give it its hook with :meth:`connect` before the first iteration. ``page_size`` and
    ``chunk_size`` are in tokens, ``num_pages`` and ``num_rows`` the sizes of the pools.
    """

    def __init__(
        self,
        *,
        name: str = "fake",
        num_pages: int = 64,
        page_size: int = 4,
        num_rows: int = 8,
        chunk_size: int = 16,
        context_len: int = 128,
        vocab_size: int = 1000,
        prefix_cache: bool = True,
        capabilities: frozenset[Capability] = _CAPABILITIES,
        quiesce_steps: int = 0,
    ) -> None:
        self.name = name
        self.version = "0"
        self.capabilities = capabilities
        self.vocab_size = vocab_size
        self.quiesce_steps = quiesce_steps
        self.is_driver = True
        self.kv_pool = FakeKvPool(
            total=num_pages,
            page_size=page_size,
            count_evictable=lambda: self.prefix_tree.evictable_pages,
        )
        self.kv_pools: dict[str, KvPool] = {"full": self.kv_pool}
        self.rows: FakeRowPool = FakeRowPool(total=num_rows)
        self.prefix_tree = FakePrefixTree(
            page_size=page_size, enabled=prefix_cache, free_pages=self.kv_pool.free
        )
        self.scheduler = FakeScheduler(
            kv_pool=self.kv_pool,
            rows=self.rows,
            tree=self.prefix_tree,
            chunk_size=chunk_size,
            vocab_size=vocab_size,
            on_batch=self._announce,
            on_end=self._report_end,
        )
        self.iterations = 0
        self.warmups = 0
        self.declared: tuple[dict[str, int], int] = ({}, 0)
        self._context_len = context_len
        self._inbox: list[tuple[ReqSpec, ClientStream] | tuple[ControlOp, ControlReceipt]] = []
        self._parked: list[tuple[ReqSpec, ClientStream]] = []
        self._deferred_aborts: list[Abort | AbortAll] = []
        self._paused: PauseMode | None = None
        self._holding = False
        self._closed = False
        self._events: FakeEngineEvents | None = None
        self._hook: FakeEngineHook | None = None

    # -- the loop ------------------------------------------------------------------------------

    def connect(self, hook: FakeEngineHook) -> FakeEngine:
        """Let the loop call ``hook``; returns the engine itself."""
        self._hook = hook
        return self

    @property
    def hook(self) -> FakeEngineHook:
        """The hook that the loop calls."""
        assert self._hook is not None, "connect() a hook first"
        return self._hook

    def iterate(self) -> None:
        """One iteration: the hook's step, receive, schedule, run, process results."""
        self.iterations += 1
        if self._hook is not None:
            self._hook.step()
        self._receive()
        if self._paused is None:
            self.scheduler.run_batch()

    def close(self) -> None:
        """Forget the scheduler; may be called twice."""
        if not self._closed:
            self._closed = True
            unbind_port(self.scheduler)

    def attach(self, events: FakeEngineEvents) -> None:
        """Report to ``events`` from now on."""
        self._events = events
        bind_port(self.scheduler, self)

    def begin_hold(self) -> None:
        """Park foreign requests from now on."""
        self._holding = True

    def end_hold(self) -> None:
        """Let parked requests in."""
        self._holding = False
        self._inbox.extend(self._parked)
        self._parked.clear()

    def drive_warmup(self) -> None:
        """Count: a fake has nothing to warm up."""
        self.warmups += 1

    def hooks_fired(self) -> tuple[str, ...]:
        """What has been called."""
        return ("iterate",) if self.iterations else ()

    def pids(self) -> Mapping[str, int]:
        """No processes of its own."""
        return {}

    # -- the inbox -----------------------------------------------------------------------------

    def submit(self, spec: ReqSpec, client: ClientStream) -> FinishReason | None:
        """Put a request into the inbox; refused when it could never fit into the context."""
        longest = len(spec.input_ids) + spec.max_new_tokens
        if longest > self._context_len:
            reason = FinishReason(
                FinishKind.REFUSED, f"{longest} tokens are over the context of {self._context_len}"
            )
            client.end(reason)
            return reason
        self._inbox.append((spec, client))
        return None

    def submit_foreign(self, spec: ReqSpec) -> ClientStream:
        """A request of somebody else: parked while a script holds the engine."""
        client = ClientStream()
        if self._holding:
            self._parked.append((spec, client))
        else:
            self._inbox.append((spec, client))
        return client

    def control(self, op: ControlOp) -> ControlReceipt:
        """Put an operation into the inbox."""
        receipt = ControlReceipt(op)
        self._inbox.append((op, receipt))
        return receipt

    def control_http(self, op: ControlOp, *, await_arrival: bool = True) -> ControlReceipt:
        """The same: a fake has no HTTP front."""
        return self.control(op)

    def _receive(self) -> None:
        inbox, self._inbox = self._inbox, []
        for what, answer in inbox:
            if isinstance(answer, ClientStream):
                assert isinstance(what, ReqSpec)
                self.scheduler.waiting_queue.append(FakeRequest(spec=what, client=answer))
            else:
                assert not isinstance(what, ReqSpec)
                self._apply(what, answer)

    def _apply(self, op: ControlOp, receipt: ControlReceipt) -> None:
        match op:
            case Pause(mode=mode):
                self._paused = mode
                if mode is PauseMode.RETRACT:
                    for request in reversed(self.scheduler.active()):
                        self.scheduler.retract(request)
            case Continue():
                self._paused = None
                deferred, self._deferred_aborts = self._deferred_aborts, []
                for abort in deferred:
                    self._abort(abort)
            case Abort() | AbortAll():
                if self._paused is PauseMode.IN_PLACE:
                    self._deferred_aborts.append(op)
                else:
                    self._abort(op)
            case Flush():
                if not self.is_idle():
                    receipt.settle(False, "requests are waiting or running")
                    return
                self.prefix_tree.evict_prefix(None)
            case _:
                assert self._events is not None
                self._events.apply_memory_op(op)
        receipt.settle(True)

    def _abort(self, op: Abort | AbortAll) -> None:
        for request in self.scheduler.live():
            if isinstance(op, AbortAll) or request.rid == op.rid:
                self.scheduler.end(request, FinishReason(FinishKind.ABORT, "aborted"))

    def _announce(self, batch: FakeBatch) -> None:
        if self._hook is not None:
            self._hook.on_run_batch(batch)

    def _report_end(self, request: FakeRequest, reason: FinishReason) -> None:
        if self._events is not None:
            self._events.finished(request.rid, reason, tuple(request.output_ids))

    # -- views ---------------------------------------------------------------------------------

    @property
    def is_paused(self) -> bool:
        """Whether a pause is in force."""
        return self._paused is not None

    def is_idle(self) -> bool:
        """No request is waiting or running."""
        return not self.scheduler.live()

    def is_fully_idle(self) -> bool:
        """Idle, with an empty inbox."""
        return self.is_idle() and not self._inbox

    def queues(self) -> QueueView:
        """The rids in the queues."""
        return QueueView(
            waiting=tuple(request.rid for request in self.scheduler.waiting_queue),
            running=tuple(request.rid for request in self.scheduler.running),
            chunked=self.chunked_rids(),
        )

    def chunked_rids(self) -> tuple[str, ...]:
        """The request that is part way through its prompt."""
        chunked = self.scheduler.chunked_req
        return () if chunked is None else (chunked.rid,)

    def requests(self) -> Sequence[RequestView]:
        """All live requests."""
        return [self._view(request) for request in self.scheduler.live()]

    def request(self, rid: str) -> RequestView | None:
        """One live request."""
        found = self.find_native(rid)
        return None if found is None else self._view(found)

    def find_native(self, rid: str) -> FakeRequest | None:
        """The live request object."""
        return next((request for request in self.scheduler.live() if request.rid == rid), None)

    def _view(self, request: FakeRequest) -> RequestView:
        waiting = request in self.scheduler.waiting_queue
        return RequestView(
            rid=request.rid,
            status=RequestStatus.WAITING if waiting else RequestStatus.RUNNING,
            prompt_len=len(request.spec.input_ids),
            output_len=len(request.output_ids),
            computed_tokens=min(request.computed, len(request.spec.input_ids)),
            kv_pages=len(request.shared_pages) + len(request.pages),
            lock_refs=0 if request.node is None else request.node.lock_ref,
            is_chunking=request is self.scheduler.chunked_req,
            priority=request.spec.priority,
        )

    def live_outputs(self) -> Iterator[tuple[str, Sequence[int]]]:
        """Rid and output tokens of every live request."""
        for request in self.scheduler.live():
            yield request.rid, request.output_ids

    def describe_batch(self, batch: FakeBatch) -> FakeBatch:
        """A fake's batches are in neutral words."""
        return batch

    def declare_held(self, *, pages_by_pool: Mapping[str, int], rows: int) -> None:
        """Note what was declared; ``declared`` holds it."""
        self.declared = (dict(pages_by_pool), rows)

    def audit(self) -> Audit:
        """Who owns each page, row and lock; needs numpy."""
        return audit_of(
            live=self.scheduler.live(),
            pool=self.kv_pool,
            rows=self.rows,
            tree=self.prefix_tree,
            is_idle=self.is_idle(),
        )
