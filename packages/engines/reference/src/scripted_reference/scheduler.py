"""The scheduler: requests in, one batch an iteration, tokens out.

One iteration receives what is in the inbox, decides on a batch, runs it and processes its result; with
overlap scheduling it processes the result of the batch before instead, as it would while an accelerator
is busy. Prefill goes before decode. A prompt longer than a chunk is computed chunk by chunk, one such
request at a time, and is stashed in the prefix tree in between. At an iteration boundary each live
request is in exactly one place: `waiting_queue`, `chunked_req` or `running_batch`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING

from scripted_reference.args import ServerArgs
from scripted_reference.batching import BatchBuilder
from scripted_reference.control import Control
from scripted_reference.departures import Departures
from scripted_reference.engine_memory import EngineMemory
from scripted_reference.in_flight import InFlight
from scripted_reference.limits import RequestLimits
from scripted_reference.memory import IntArray
from scripted_reference.memory_check import check_memory
from scripted_reference.messages import GenerateReq, Message, PauseMode
from scripted_reference.models.base import BatchResult, Model
from scripted_reference.models.factory import load_model
from scripted_reference.models.sliding_window import sliding_window
from scripted_reference.observer import NoObserver, SchedulerObserver
from scripted_reference.request import Req
from scripted_reference.results import ResultProcessor
from scripted_reference.schedule_batch import ForwardMode, ScheduleBatch
from scripted_reference.speculation.accept_lengths import AcceptLengths

if TYPE_CHECKING:
    from scripted_reference.kv_watch import GroupWatch


class Scheduler:
    """One replica of the engine: scheduler, pools, prefix tree and model, driven by `iterate`.

    Attributes:
        inbox: post messages here; the coming iteration receives them in order.
        observer: is told of iterations, batches, outputs and finishes.
        requests: every live request by rid, in order of arrival.
        waiting_queue: requests without memory, the next to be considered first.
        running_batch: requests that decode; none of them has finished at an iteration boundary.
        chunked_req: the request whose prompt is part way through.
        cur_batch: the batch of the iteration under way, and afterwards of the last one.
        last_batch: the batch of the last iteration; `None` if it ran nothing.
        in_flight: batches whose results are not processed yet; at an iteration boundary it is empty,
            or with overlap scheduling has the batch of the last iteration.
        enable_overlap: whether results are processed one iteration late.
        paused: how the engine is paused, or `None`.
        accept_lengths: what speculation has given so far; `None` in an engine that does not speculate.
        forward_ct: how many batches have run.
        kv_watch: who is told of forwards and copies of KV; `None` for nobody.
        memory: the pools, the prefix tree and what is held, together.
        batches, results, departures, control: the parts of the work; they keep their state here.
    """

    def __init__(self, args: ServerArgs, *, observer: SchedulerObserver | None = None) -> None:
        self.server_args = args
        self.observer: SchedulerObserver = observer or NoObserver()
        self.page_size = args.page_size
        self.enable_overlap = not args.disable_overlap_schedule
        self.memory = memory = EngineMemory(args, sliding_window=sliding_window(args))
        self.token_to_kv_pool_allocator = memory.allocator
        self.token_to_kv_pool = memory.kv_pool
        self.req_to_token_pool = memory.rows
        self.tree_cache = memory.tree_cache
        self.holds = memory.holds
        self.model: Model = self.make_model(args)
        self.limits = RequestLimits(
            context_len=args.context_length,
            pool_tokens=memory.tokens_for_one(args.chunk_tokens),
            page_size=args.page_size,
            vocab_size=self.model.vocab_size,
            supports_logprobs=self.model.supports_logprobs,
            lora_names=self.model.lora_names,
        )
        self.inbox: deque[Message] = deque()
        self.requests: dict[str, Req] = {}
        self.waiting_queue: list[Req] = []
        self.running_batch = ScheduleBatch((), ForwardMode.DECODE)
        self.chunked_req: Req | None = None
        self.cur_batch: ScheduleBatch | None = None
        self.last_batch: ScheduleBatch | None = None
        self.in_flight = InFlight()
        self.paused: PauseMode | None = None
        self.accept_lengths: AcceptLengths | None = None
        self.kv_watch: GroupWatch | None = None
        self.forward_ct = 0
        self.batches = BatchBuilder(self)
        self.results = ResultProcessor(self)
        self.departures = Departures(self)
        self.control = Control(self)

    def make_model(self, args: ServerArgs) -> Model:
        """Return a new model over the pools."""
        return load_model(
            args,
            kv_pool=self.token_to_kv_pool,
            req_to_token_pool=self.req_to_token_pool,
            window=self.memory.window_storage,
        )

    # --- one iteration

    def iterate(self) -> None:
        """Run exactly one scheduler iteration."""
        self.observer.before_receive()
        self.run_iteration()

    def run_iteration(self) -> None:
        """Do what an iteration consists of, without telling the observer that it begins."""
        if self.inbox:
            self.process_input_requests(self.recv_requests())
        batch = self.get_next_batch_to_run()
        self.cur_batch = batch
        if batch is None:
            self.on_no_batch()
        else:
            result = self.run_batch(batch)
            if self.enable_overlap:
                self.in_flight.push(batch, result)
                self.process_in_flight(but_for=1)
            else:
                self.process_batch_result(batch, result)
        self.last_batch = batch

    def recv_requests(self) -> list[Message]:
        """Take everything out of the inbox."""
        messages = list(self.inbox)
        self.inbox.clear()
        return messages

    def process_input_requests(self, messages: Collection[Message]) -> None:
        """Let the messages take effect, in order; those behind one that fails stay in the inbox."""
        pending = deque(messages)
        try:
            while pending:
                self.control.handle(pending.popleft())
        finally:
            self.inbox.extendleft(reversed(pending))

    def get_next_batch_to_run(self) -> ScheduleBatch | None:
        """Decide on the batch of this iteration and prepare it; `None` when there is nothing to run."""
        if self.paused is not None:
            return None
        if self.chunked_req is not None:
            self.tree_cache.cache_unfinished_req(self.chunked_req, chunked=True)
        return self.batches.next_prefill() or self.batches.next_decode()

    def run_batch(self, batch: ScheduleBatch) -> BatchResult:
        """Run the model on a prepared batch; complete prompts join `running_batch`."""
        self.forward_ct += 1
        self.observer.on_run_batch(batch)
        watch = self.kv_watch
        result = (
            self.model.forward(batch) if watch is None else watch.run(self.model.forward, batch)
        )
        if batch.forward_mode.is_decode():
            batch.input_ids = result.next_token_ids
        else:
            complete = [req for req in batch.reqs if req is not batch.chunked_req]
            if complete:
                self.set_running([*self.running_batch.reqs, *complete])
        return result

    def process_batch_result(self, batch: ScheduleBatch, result: BatchResult) -> None:
        """Append the new tokens, end what is complete, and leave `running_batch` as it goes on."""
        self.results.process(batch, result)

    def process_in_flight(self, *, but_for: int = 0) -> None:
        """Process the results in flight, oldest first, all but the newest `but_for`."""
        while len(self.in_flight) > but_for:
            flying = self.in_flight.pop()
            self.results.process(flying.batch, flying.result, discarded=flying.discarded)

    def on_no_batch(self) -> None:
        """Nothing runs: process what is in flight, unless paused in place, and check the memory."""
        if self.paused is not PauseMode.IN_PLACE:
            self.process_in_flight()
        if not self.requests:
            self.batches.new_token_ratio.reset()
        self.check_memory()

    def enqueue(self, req: Req) -> None:
        """Let a request that has just arrived wait for its turn."""
        self.waiting_queue.append(req)

    def decoding(self) -> list[Req]:
        """Return the requests that decode."""
        return self.running_batch.reqs

    def unprocessed_tokens(self) -> Mapping[Req, int]:
        """Return the newest token of those running requests whose result is still in flight."""
        return self.in_flight.newest_tokens()

    def owners(self) -> list[Req]:
        """Return the requests that have memory at an iteration boundary, in batch order."""
        running, chunked = self.running_batch.reqs, self.chunked_req
        return running if chunked is None else [*running, chunked]

    def slots_of(self, req: Req) -> IntArray:
        """Return the slots of a request that has memory, by position."""
        assert req.req_pool_idx is not None, f"{req!r} has no memory"
        slots: IntArray = self.req_to_token_pool.req_to_token[req.req_pool_idx]
        return slots[: req.kv_allocated_len]

    def in_transfer(self) -> list[Req]:
        """Return those of `owners` whose KV is on its way from or to another engine."""
        return []

    def set_running(self, reqs: list[Req]) -> None:
        """Replace the requests that decode."""
        self.running_batch = ScheduleBatch(reqs, ForwardMode.DECODE)

    # --- what the front asks

    def validate(self, spec: GenerateReq) -> str | None:
        """Return why a request is refused before it reaches the inbox, or `None` if it is not."""
        arriving = {message.rid for message in self.inbox if isinstance(message, GenerateReq)}
        return self.refusal(spec, taken=arriving)

    def refusal(self, spec: GenerateReq, *, taken: Collection[str] = ()) -> str | None:
        """Return why a request is refused, its id being in use by a live one or in `taken` included."""
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
        """Return whether the engine is idle, with nothing in flight and nothing on its way in."""
        return not (self.requests or self.inbox or len(self.in_flight))

    # --- control

    def pause(self, mode: PauseMode) -> None:
        """Stop scheduling.

        `RETRACT` processes what is in flight, then sends all requests with memory back to the waiting
        queue; after `IN_PLACE`, what is in flight stays so until the engine continues. Pausing again
        with `RETRACT` retracts then; with `IN_PLACE` nothing changes.
        """
        self.control.pause(mode)

    def resume(self) -> None:
        """Go on scheduling; what was aborted while paused in place ends now."""
        self.control.resume()

    def flush_cache(self) -> bool:
        """Empty the prefix tree; return `False`, and change nothing, unless the engine is idle.

        A lock that somebody holds on the tree keeps it from being emptied, too. Afterwards memory is
        handed out as by a new engine: what happened before no longer shows.
        """
        return self.can_flush() and self.memory.reset_if_unlocked()

    def can_flush(self) -> bool:
        """Return whether `flush_cache` would empty the tree now."""
        return self.is_fully_idle() and not self.tree_cache.protected_size()

    def check_memory(self) -> None:
        """Raise `PoolLeakError` unless all memory is accounted for; done whenever nothing runs."""
        check_memory(self)
