"""The scheduler: requests in, one batch an iteration, tokens out.

One iteration receives what is in the inbox, decides on a batch, runs it and processes its result.
Prefill goes before decode. A prompt longer than a chunk is computed chunk by chunk, one such request at
a time, and is stashed in the prefix tree in between. At an iteration boundary each live request is in
exactly one place: `waiting_queue`, `chunked_req` or `running_batch`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection
from typing import Any

from scripted_reference.admission import PrefillAdder
from scripted_reference.args import ServerArgs
from scripted_reference.engine_memory import EngineMemory
from scripted_reference.limits import RequestLimits
from scripted_reference.memory_check import check_memory
from scripted_reference.messages import (
    AbortReq,
    CallReq,
    ContinueReq,
    FlushCacheReq,
    GenerateReq,
    Message,
    PauseMode,
    PauseReq,
)
from scripted_reference.models.base import BatchResult, Model
from scripted_reference.models.hash_model import HashModel
from scripted_reference.observer import NoObserver, SchedulerObserver
from scripted_reference.policy import order_waiting
from scripted_reference.request import FinishKind, FinishReason, Req
from scripted_reference.retract import OUT_OF_MEMORY, NewTokenRatio, pick_victim
from scripted_reference.schedule_batch import ForwardMode, ScheduleBatch


class Scheduler:
    """The engine: scheduler, pools, prefix tree and model, driven by `iterate`.

    Attributes:
        inbox: post messages here; the coming iteration receives them in order.
        observer: is told of iterations, batches and finishes.
        requests: every live request by rid, in order of arrival.
        waiting_queue: requests without memory, the next to be considered first.
        running_batch: requests that decode; none of them has finished at an iteration boundary.
        chunked_req: the request whose prompt is part way through.
        cur_batch: the batch of the iteration under way, and afterwards of the last one.
        last_batch: the batch of the last iteration; `None` if it ran nothing.
        paused: how the engine is paused, or `None`.
        forward_ct: how many batches have run.
    """

    def __init__(self, args: ServerArgs, *, observer: SchedulerObserver | None = None) -> None:
        self.server_args = args
        self.observer: SchedulerObserver = observer or NoObserver()
        self.page_size = args.page_size
        self._memory = memory = EngineMemory(args)
        self.token_to_kv_pool_allocator = memory.allocator
        self.token_to_kv_pool = memory.kv_pool
        self.req_to_token_pool = memory.rows
        self.tree_cache = memory.tree_cache
        self.holds = memory.holds
        self.model: Model = HashModel(
            kv_pool=self.token_to_kv_pool,
            req_to_token_pool=self.req_to_token_pool,
            seed=args.random_seed,
        )
        self.limits = RequestLimits(
            context_len=args.context_length,
            pool_tokens=self.token_to_kv_pool_allocator.size,
            page_size=args.page_size,
            vocab_size=self.model.vocab_size,
        )
        self.inbox: deque[Message] = deque()
        self.requests: dict[str, Req] = {}
        self.waiting_queue: list[Req] = []
        self.running_batch = ScheduleBatch((), ForwardMode.DECODE)
        self.chunked_req: Req | None = None
        self.cur_batch: ScheduleBatch | None = None
        self.last_batch: ScheduleBatch | None = None
        self.paused: PauseMode | None = None
        self.forward_ct = 0
        self._arrivals = 0
        self._deferred_aborts: list[tuple[Req, str]] = []
        self._new_token_ratio = NewTokenRatio(conservativeness=args.schedule_conservativeness)
        self._handlers: dict[type, Callable[[Any], None]] = {
            GenerateReq: self._on_generate,
            AbortReq: self._on_abort,
            PauseReq: lambda message: self.pause(message.mode),
            ContinueReq: lambda _: self.resume(),
            FlushCacheReq: lambda message: message.reply(self.flush_cache()),
            CallReq: lambda message: message.fn(self),
        }

    # --- one iteration

    def iterate(self) -> None:
        """Run exactly one scheduler iteration."""
        self.observer.before_receive()
        if self.inbox:
            self.process_input_requests(self.recv_requests())
        batch = self.get_next_batch_to_run()
        self.cur_batch = batch
        if batch is None:
            self._on_no_batch()
        else:
            self.process_batch_result(batch, self.run_batch(batch))
        self.last_batch = batch

    def recv_requests(self) -> list[Message]:
        """Take everything out of the inbox."""
        messages = list(self.inbox)
        self.inbox.clear()
        return messages

    def process_input_requests(self, messages: list[Message]) -> None:
        """Let the messages take effect, in order; those behind one that fails stay in the inbox."""
        pending = deque(messages)
        try:
            while pending:
                message = pending.popleft()
                self._handlers[type(message)](message)
        finally:
            self.inbox.extendleft(reversed(pending))

    def get_next_batch_to_run(self) -> ScheduleBatch | None:
        """Decide on the batch of this iteration and prepare it; `None` when there is nothing to run."""
        if self.paused is not None:
            return None
        if self.chunked_req is not None:
            self.tree_cache.cache_unfinished_req(self.chunked_req, chunked=True)
        return self._get_new_batch_prefill() or self._get_decode_batch()

    def run_batch(self, batch: ScheduleBatch) -> BatchResult:
        """Run the model on a prepared batch."""
        self.forward_ct += 1
        self.observer.on_run_batch(batch)
        return self.model.forward(batch)

    def process_batch_result(self, batch: ScheduleBatch, result: BatchResult) -> None:
        """Append the new tokens, end what is complete, and leave `running_batch` as it goes on."""
        if batch.forward_mode.is_decode():
            self._process_decode_result(batch, result)
        else:
            self._process_extend_result(batch, result)

    # --- what the front asks

    def validate(self, spec: GenerateReq) -> str | None:
        """Return why a request is refused before it reaches the inbox, or `None` if it is not."""
        arriving = {message.rid for message in self.inbox if isinstance(message, GenerateReq)}
        return self._refusal(spec, taken=arriving)

    def _refusal(self, spec: GenerateReq, *, taken: Collection[str] = ()) -> str | None:
        if spec.rid in self.requests or spec.rid in taken:
            return f"The request id {spec.rid!r} is in use by a live request."
        return self.limits.refusal(spec)

    def find_req(self, rid: str) -> Req | None:
        """Return the live request with this id."""
        return self.requests.get(rid)

    @property
    def is_idle(self) -> bool:
        """Whether no request is waiting, part way through its prompt, or running."""
        return not self.requests

    def is_fully_idle(self) -> bool:
        """Return whether the engine is idle and nothing is on its way in either."""
        return not self.requests and not self.inbox

    # --- control

    def pause(self, mode: PauseMode) -> None:
        """Stop scheduling. `RETRACT` sends all requests with memory back to the waiting queue.

        Pausing again with `RETRACT` retracts then; with `IN_PLACE` nothing changes.
        """
        mode = PauseMode(mode)  # ValueError for a word that is no mode
        if self.paused is None or mode is PauseMode.RETRACT:
            self.paused = mode
        if mode is PauseMode.RETRACT:
            running = self.running_batch.reqs
            self._set_running([])
            for req in running:
                self._retract(req)
            self._retract_chunked()

    def resume(self) -> None:
        """Go on scheduling; what was aborted while paused in place ends now."""
        self.paused = None
        deferred, self._deferred_aborts = self._deferred_aborts, []
        for req, message in deferred:
            self._abort(req, message)

    def flush_cache(self) -> bool:
        """Empty the prefix tree; return `False`, and change nothing, unless the engine is idle.

        A lock that somebody holds on the tree keeps it from being emptied, too. Afterwards memory is
        handed out as by a new engine: what happened before no longer shows.
        """
        return self.is_fully_idle() and self._memory.reset_if_unlocked()

    def check_memory(self) -> None:
        """Raise `PoolLeakError` unless all memory is accounted for; done whenever nothing runs."""
        check_memory(self)

    # --- messages

    def _on_generate(self, message: GenerateReq) -> None:
        params, prompt = message.sampling_params, list(message.input_ids)
        req = Req(
            rid=message.rid,
            origin_input_ids=prompt,
            sampling_params=params,
            max_new_tokens=self.limits.clip_new_tokens(
                prompt_len=len(prompt), max_new_tokens=params.max_new_tokens
            ),
            eos_token_id=self.model.eos_token_id,
            arrival=self._arrivals,
            priority=message.priority,
        )
        self._arrivals += 1
        refusal = self._refusal(message)
        if refusal is not None:
            # The front validates; whoever goes past it still gets an answer, not a dead engine.
            req.finished_reason = FinishReason(FinishKind.ABORT, refusal)
            self.observer.on_finish(req)
            return
        self.requests[req.rid] = req
        self.waiting_queue.append(req)

    def _on_abort(self, message: AbortReq) -> None:
        if message.rid is None:
            targets = list(self.requests.values())
        else:
            found = self.requests.get(message.rid)
            targets = [] if found is None else [found]
        if self.paused is PauseMode.IN_PLACE:
            self._deferred_aborts.extend((req, message.message) for req in targets)
            return
        for req in targets:
            self._abort(req, message.message)

    # --- scheduling

    def _get_new_batch_prefill(self) -> ScheduleBatch | None:
        chunked = self.chunked_req
        rows_left = self.req_to_token_pool.available_size()
        if chunked is None and (rows_left == 0 or not self.waiting_queue):
            return None
        args = self.server_args
        adder = PrefillAdder(
            tree_cache=self.tree_cache,
            allocator=self.token_to_kv_pool_allocator,
            running=self.running_batch.reqs,
            new_token_ratio=self._new_token_ratio.current,
            max_prefill_tokens=args.max_prefill_tokens,
            chunk_tokens=args.chunk_tokens,
        )
        if chunked is not None and not adder.add_chunked_req(chunked):
            return None
        admitted = self._admit_waiting(adder, rows_left)
        if not adder.can_run_list:
            return None
        self.waiting_queue = self.waiting_queue[admitted:]
        self.chunked_req = adder.chunked_req
        if self.chunked_req is not None:
            self.chunked_req.is_chunked += 1
        batch = ScheduleBatch(adder.can_run_list, ForwardMode.EXTEND, chunked_req=adder.chunked_req)
        self._memory.evict_until(batch.extend_tokens_needed(self.page_size))
        batch.prepare_for_extend(
            rows=self.req_to_token_pool, allocator=self.token_to_kv_pool_allocator
        )
        return batch

    def _admit_waiting(self, adder: PrefillAdder, rows_left: int) -> int:
        """Admit from the front of the ordered queue until one does not fit; return how many."""
        if rows_left == 0:
            return 0
        args = self.server_args
        order_waiting(
            self.waiting_queue,
            policy=args.schedule_policy,
            by_priority=args.enable_priority_scheduling,
            tree_cache=self.tree_cache,
        )
        admitted = 0
        for req in self.waiting_queue:
            if admitted == rows_left or not adder.add_one_req(req):
                break
            admitted += 1
        return admitted

    def _get_decode_batch(self) -> ScheduleBatch | None:
        if self.running_batch.reqs:
            self._make_room_for_decode()
        batch = self.running_batch
        if not batch.reqs:
            return None
        batch.prepare_for_decode(
            rows=self.req_to_token_pool, allocator=self.token_to_kv_pool_allocator
        )
        return batch

    def _make_room_for_decode(self) -> None:
        """Evict, then retract, until each running request can get the slot of its next token."""
        if self._memory.evict_until(self.running_batch.decode_tokens_needed(self.page_size)):
            self._new_token_ratio.decay()
            return
        while not self._memory.evict_until(self.running_batch.decode_tokens_needed(self.page_size)):
            reqs = self.running_batch.reqs
            if len(reqs) > 1:
                victim = pick_victim(reqs)
                self._set_running([req for req in reqs if req is not victim])
                self._retract(victim)
            elif self.chunked_req is not None:
                self._retract_chunked()
            else:
                self._abort(reqs[0], f"{OUT_OF_MEMORY} ({self._memory.describe()}).")
        self._new_token_ratio.after_retraction(self.running_batch.reqs)

    def _on_no_batch(self) -> None:
        if not self.requests:
            self._new_token_ratio.reset()
        check_memory(self)

    # --- results

    def _process_extend_result(self, batch: ScheduleBatch, result: BatchResult) -> None:
        finished: list[Req] = []
        prefilled: list[Req] = []
        for req, token in zip(batch.reqs, result.next_token_ids.tolist(), strict=True):
            req.kv_committed_len = req.kv_allocated_len
            if req is batch.chunked_req:
                req.is_chunked -= 1
                continue
            req.output_ids.append(token)
            req.finished_reason = req.finish_after(token)
            if req.finished_reason is not None:
                finished.append(req)
            else:
                self.tree_cache.cache_unfinished_req(req)
                prefilled.append(req)
        if prefilled:
            self._set_running([*self.running_batch.reqs, *prefilled])
        for req in finished:
            self._end(req)

    def _process_decode_result(self, batch: ScheduleBatch, result: BatchResult) -> None:
        batch.input_ids = result.next_token_ids
        any_finished = False
        for req, token in zip(batch.reqs, result.next_token_ids.tolist(), strict=True):
            req.kv_committed_len += 1
            req.output_ids.append(token)
            if len(req.output_ids) >= req.max_new_tokens or token in req.stop_ids:
                req.finished_reason = req.finish_after(token)
                any_finished = True
        if any_finished:
            self._set_running([req for req in batch.reqs if not req.finished()])
            for req in batch.reqs:
                if req.finished():
                    self._end(req)

    def _set_running(self, reqs: list[Req]) -> None:
        self.running_batch = ScheduleBatch(reqs, ForwardMode.DECODE)

    # --- the ways a request loses its memory

    def _retract(self, req: Req) -> None:
        """Take a request's memory and queue it again; what it has output so far stays."""
        self._memory.release(req, keep=False)
        req.retraction_count += 1
        self.waiting_queue.append(req)

    def _retract_chunked(self) -> None:
        if self.chunked_req is not None:
            req, self.chunked_req = self.chunked_req, None
            self._retract(req)

    def _abort(self, req: Req, message: str) -> None:
        if req.finished():
            return
        req.finished_reason = FinishReason(FinishKind.ABORT, message)
        if req is self.chunked_req:
            self.chunked_req = None
        elif req.req_pool_idx is None:
            self.waiting_queue.remove(req)
        else:
            self._set_running([other for other in self.running_batch.reqs if other is not req])
        self._end(req)

    def _end(self, req: Req) -> None:
        """Give back a finished request's memory and report it: the one place where that happens."""
        if req.req_pool_idx is not None:
            self._memory.release(req, keep=True)
        del self.requests[req.rid]
        self.observer.on_finish(req)
