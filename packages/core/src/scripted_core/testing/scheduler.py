"""The scheduler of the fake engine: one batch for each iteration."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from scripted_core.errors import ExhaustError
from scripted_core.testing.pools import FakeKvPool, FakeRowPool
from scripted_core.testing.prefix_tree import FakePrefixTree
from scripted_core.testing.request import FakeRequest, next_token
from scripted_core.views import FinishKind, FinishReason, ForwardMode


@dataclass(frozen=True)
class FakeBatch:
    """One batch, in the engine's words and in neutral ones at once."""

    mode: ForwardMode
    rids: tuple[str, ...]
    extend_rids: tuple[str, ...] = ()
    chunked_rids: tuple[str, ...] = ()


class FakeScheduler:
    """The scheduler object that ``t.scheduler`` is.

    Prefill comes first, in chunks of at most ``chunk_size`` tokens and with at most one request
    part way through; otherwise every running request decodes one token. ``on_batch`` is called
    before a batch runs, ``on_end`` when a request has ended. With ``admits`` set to False no
    waiting request is taken in: a scheduler that is stuck.
    """

    def __init__(
        self,
        *,
        kv_pool: FakeKvPool,
        rows: FakeRowPool,
        tree: FakePrefixTree,
        chunk_size: int,
        vocab_size: int,
        on_batch: Callable[[FakeBatch], None],
        on_end: Callable[[FakeRequest, FinishReason], None],
    ) -> None:
        self.waiting_queue: list[FakeRequest] = []
        self.running: list[FakeRequest] = []
        self.chunked_req: FakeRequest | None = None
        self.admits = True
        self._kv_pool = kv_pool
        self._rows = rows
        self._tree = tree
        self._chunk_size = chunk_size
        self._vocab_size = vocab_size
        self._on_batch = on_batch
        self._on_end = on_end

    def active(self) -> list[FakeRequest]:
        """Requests that hold memory."""
        chunked = self.chunked_req
        return [*self.running, *([chunked] if chunked is not None else [])]

    def live(self) -> list[FakeRequest]:
        """All requests that have arrived and not ended."""
        return [*self.waiting_queue, *self.active()]

    def run_batch(self) -> None:
        """Schedule one batch, if there is work, run it and process its results."""
        plan = self._plan_prefill()
        if plan:
            partial = tuple(r.rid for r, tokens in plan if tokens < r.missing)
            rids = tuple(r.rid for r, _ in plan)
            batch = FakeBatch(ForwardMode.EXTEND, rids, rids, partial)
        else:
            plan = self._plan_decode()
            if not plan:
                return
            batch = FakeBatch(ForwardMode.DECODE, tuple(r.rid for r, _ in plan))
        self._on_batch(batch)
        for request, tokens in plan:
            request.computed += tokens
            if request.missing:
                self.chunked_req = request
                continue
            if self.chunked_req is request:
                self.chunked_req = None
            if request not in self.running:
                self.running.append(request)
            token = next_token(request.tokens(), self._vocab_size)
            request.output_ids.append(token)
            request.client.receive([token])
            stop = request.spec.stop_token_ids or ()
            if token in stop and not request.spec.ignore_eos:
                self.end(request, FinishReason(FinishKind.STOP))
            elif len(request.output_ids) >= request.spec.max_new_tokens:
                self.end(request, FinishReason(FinishKind.LENGTH))

    def _plan_prefill(self) -> list[tuple[FakeRequest, int]]:
        budget = self._chunk_size
        plan: list[tuple[FakeRequest, int]] = []
        chunked = self.chunked_req
        if chunked is not None:
            tokens = min(budget, chunked.missing)
            if not self._grow(chunked, tokens):
                return []
            plan.append((chunked, tokens))
            budget -= tokens
        while budget and self.waiting_queue:
            request = self.waiting_queue[0]
            if not self._admit(request):
                break
            tokens = min(budget, request.missing)
            if not self._grow(request, tokens):
                self._give_back(request)
                break
            self.waiting_queue.pop(0)
            plan.append((request, tokens))
            budget -= tokens
        return plan

    def _plan_decode(self) -> list[tuple[FakeRequest, int]]:
        running = self.running
        for request in list(running):
            while request in running and not self._grow(request, 1):
                if self.chunked_req is not None:
                    # What has no output yet gives way first, or it would starve those that have.
                    self.retract(self.chunked_req)
                elif len(running) == 1:
                    reason = FinishReason(FinishKind.ABORT, "the KV pool is too small for it")
                    self.end(request, reason)
                else:
                    self.retract(running[-1])
        return [(request, 1) for request in running]

    def _admit(self, request: FakeRequest) -> bool:
        if not self.admits or not self._rows.available:
            return False
        request.row = self._rows.allocate(1)[0]
        if self._tree.enabled:
            # The last token is always computed: the next one comes out of it.
            nodes = self._tree.match(request.tokens()[:-1])
            request.shared_pages = [node.page for node in nodes]
            request.computed = len(nodes) * self._kv_pool.page_size
            if nodes:
                request.node = nodes[-1]
                self._tree.pin(nodes[-1])
        return True

    def _grow(self, request: FakeRequest, tokens: int) -> bool:
        size = self._kv_pool.page_size
        wanted = -(-(request.computed + tokens) // size)
        more = wanted - len(request.shared_pages) - len(request.pages)
        lacking = more - self._kv_pool.available
        if lacking > 0 and self._tree.enabled:
            self._tree.evict(lacking)
        try:
            request.pages += self._kv_pool.allocate(max(0, more))
        except ExhaustError:
            return False
        return True

    def _give_back(self, request: FakeRequest) -> None:
        self._kv_pool.free(request.pages)
        if request.row is not None:
            self._rows.free([request.row])
        if request.node is not None:
            self._tree.unpin(request.node)
        request.pages, request.shared_pages = [], []
        request.row = request.node = None
        request.computed = 0

    def _remove(self, request: FakeRequest) -> None:
        if self.chunked_req is request:
            self.chunked_req = None
        for queue in (self.waiting_queue, self.running):
            if request in queue:
                queue.remove(request)

    def retract(self, request: FakeRequest) -> None:
        """Send a request back to the head of the queue, without its KV."""
        self._remove(request)
        self._give_back(request)
        self.waiting_queue.insert(0, request)

    def end(self, request: FakeRequest, reason: FinishReason) -> None:
        """End a request at whatever stage it is; whole pages go to the prefix tree."""
        self._remove(request)
        if self._tree.enabled and request.node is None and not request.shared_pages:
            size = self._kv_pool.page_size
            whole = request.computed // size
            kept, rest = request.pages[:whole], request.pages[whole:]
            request.pages = self._tree.insert(request.tokens()[: whole * size], kept) + rest
        self._give_back(request)
        request.client.end(reason)
        self._on_end(request, reason)
