"""The prefill engine of a pair: it computes prompts, sends their KV, and decodes nothing.

Queues have SGLang's names. A request waits in `disagg_prefill_bootstrap_queue` until the decode engine
has memory for its KV, then in `waiting_queue`; complete, it waits in `disagg_prefill_inflight_queue`,
memory and all, until its KV has arrived, and leaves its prompt to the prefix tree.
"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Set as AbstractSet
from dataclasses import replace

from scripted_reference.args import ServerArgs
from scripted_reference.control import Control
from scripted_reference.departures import Departures
from scripted_reference.messages import GenerateReq, PauseMode
from scripted_reference.models.base import BatchResult
from scripted_reference.pd.rooms import FirstToken, Rooms, RoomState
from scripted_reference.pd.transfer import KvSender
from scripted_reference.request import Req
from scripted_reference.results import ResultProcessor
from scripted_reference.schedule_batch import ScheduleBatch
from scripted_reference.scheduler import Scheduler


class PrefillControl(Control):
    """Takes requests in for the sake of their prompts."""

    def new_req(self, message: GenerateReq) -> Req:
        """Return a request that asks for its first token only."""
        params = replace(message.sampling_params, max_new_tokens=1)
        return super().new_req(replace(message, sampling_params=params))


class PrefillDepartures(Departures):
    """Knows the queues of a prefill engine."""

    _scheduler: PrefillScheduler

    def leave(self, req: Req) -> None:
        """Take a live request out of the one place where it is."""
        for queue in (
            self._scheduler.disagg_prefill_bootstrap_queue,
            self._scheduler.disagg_prefill_inflight_queue,
        ):
            if req in queue:
                queue.remove(req)
                return
        super().leave(req)

    def requeue(self, req: Req) -> None:
        """Queue a request again whose KV is lost: it will be sent from the beginning."""
        super().requeue(req)
        room = self._scheduler.rooms.get(req.rid)
        if room is not None:
            room.start_over()


class PrefillResults(ResultProcessor):
    """Sends what was computed, chunk by chunk."""

    _scheduler: PrefillScheduler

    def process_extend(
        self, batch: ScheduleBatch, result: BatchResult, discarded: AbstractSet[Req]
    ) -> None:
        """Take the first token of each complete prompt, and send each request's new KV."""
        for look in self._scheduler.after_forward:
            look(batch)
        super().process_extend(batch, result, discarded)
        for req, start, length in zip(
            batch.reqs, batch.prefix_lens, batch.extend_lens, strict=True
        ):
            if req not in discarded:
                self._scheduler.send_kv(
                    req, end=start + length, is_complete=req is not batch.chunked_req
                )

    def end_finished(self, ended: list[Req]) -> None:
        """A prompt is complete: others may use its KV from now on, and it stays until it arrived."""
        scheduler = self._scheduler
        scheduler.set_running([req for req in scheduler.running_batch.reqs if not req.finished()])
        for req in ended:
            req.finished_reason = None
            scheduler.tree_cache.cache_unfinished_req(req)
            scheduler.disagg_prefill_inflight_queue.append(req)


class PrefillScheduler(Scheduler):
    """A scheduler whose requests end with their prompts.

    Attributes:
        disagg_prefill_bootstrap_queue: requests for whose KV the decode engine has no memory yet.
        disagg_prefill_inflight_queue: requests whose prompt is complete, and whose KV is not there yet.
        transfer: what KV is handed to.
        after_forward: called with each batch when the model has computed it, before anything becomes
            of its result: before prompts go into the prefix tree, and before their KV is sent.
    """

    def __init__(self, args: ServerArgs, *, rooms: Rooms) -> None:
        super().__init__(args)
        self.rooms = rooms
        self.transfer: KvSender | None = None
        self.after_forward: list[Callable[[ScheduleBatch], None]] = []
        self.disagg_prefill_bootstrap_queue: list[Req] = []
        self.disagg_prefill_inflight_queue: list[Req] = []
        self.control = PrefillControl(self)
        self.departures = PrefillDepartures(self)
        self.results = PrefillResults(self)

    def run_iteration(self) -> None:
        """Let go of what has arrived, then do what an iteration consists of."""
        if self.paused is not PauseMode.IN_PLACE:
            self.let_go_of_the_arrived()
        super().run_iteration()

    def get_next_batch_to_run(self) -> ScheduleBatch | None:
        """Decide on the prefill of this iteration; there is no decode."""
        if self.paused is not None:
            return None
        self.admit_bootstrapped()
        if self.chunked_req is not None:
            self.tree_cache.cache_unfinished_req(self.chunked_req, chunked=True)
        return self.batches.next_prefill()

    def enqueue(self, req: Req) -> None:
        """Let a request wait for the decode engine's memory."""
        self.disagg_prefill_bootstrap_queue.append(req)

    def owners(self) -> list[Req]:
        """Return the requests that have memory, those in transfer included."""
        return [*super().owners(), *self.disagg_prefill_inflight_queue]

    def in_transfer(self) -> list[Req]:
        """Return the requests whose prompt is complete."""
        return self.disagg_prefill_inflight_queue

    def admit_bootstrapped(self) -> None:
        """Let those wait for their turn whose KV has a place to go to."""
        ready = [req for req in self.disagg_prefill_bootstrap_queue if self._is_ready(req)]
        for req in ready:
            self.disagg_prefill_bootstrap_queue.remove(req)
            self.waiting_queue.append(req)

    def send_kv(self, req: Req, *, end: int, is_complete: bool) -> None:
        """Send the KV of a request up to `end`; nothing if the decode engine has dropped it."""
        room = self.rooms.get(req.rid)
        if room is None or room.state is not RoomState.READY:
            return
        assert self.transfer is not None, "the engine gives a scheduler its transfer"
        first = None
        if is_complete:
            first = FirstToken(
                req.output_ids[-1], tuple(req.input_logprobs), tuple(req.output_logprobs)
            )
        self.transfer.send(room, end=end, first=first)

    def let_go_of_the_arrived(self) -> None:
        """End the requests whose KV has arrived; their prompts stay in the prefix tree."""
        for req in list(self.disagg_prefill_inflight_queue):
            room = self.rooms.get(req.rid)
            if room is not None and room.state is RoomState.COMPLETE:
                self.disagg_prefill_inflight_queue.remove(req)
                self.let_go(req)

    def let_go(self, req: Req) -> None:
        """End a request whose KV has arrived."""
        self.departures.end(req)

    def _is_ready(self, req: Req) -> bool:
        room = self.rooms.get(req.rid)
        return room is not None and room.state is RoomState.READY
