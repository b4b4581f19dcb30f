"""The decode engine of a pair: it takes KV in, and computes no prompt.

Queues have SGLang's names. A request waits in `disagg_decode_prealloc_queue` for memory, in
`disagg_decode_transfer_queue` for its KV, and in `waiting_queue`, KV and all, for the coming iteration.
A request that has to give way is not computed again: as SGLang does, its KV is copied out of the pool,
and copied back when there is room, before any other gets memory.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy.typing as npt

from scripted_reference.args import ServerArgs
from scripted_reference.batching import BatchBuilder
from scripted_reference.departures import Departures
from scripted_reference.memory import paged_growth
from scripted_reference.pd.rooms import Rooms, RoomState
from scripted_reference.request import Req
from scripted_reference.schedule_batch import ScheduleBatch
from scripted_reference.scheduler import Scheduler


class RetractedKv(NamedTuple):
    """A request without memory, the KV that it had, and what a watcher knew of it."""

    req: Req
    contents: npt.NDArray[Any]
    length: int
    watched: Any | None = None


class DecodeDepartures(Departures):
    """Knows the queues of a decode engine."""

    _scheduler: DecodeScheduler

    def leave(self, req: Req) -> None:
        """Take a live request out of the one place where it is."""
        scheduler = self._scheduler
        for queue in (
            scheduler.disagg_decode_prealloc_queue,
            scheduler.disagg_decode_transfer_queue,
            scheduler.waiting_queue,
        ):
            if req in queue:
                queue.remove(req)
                return
        kept = [one for one in scheduler.disagg_decode_retracted_queue if one.req is not req]
        if len(kept) < len(scheduler.disagg_decode_retracted_queue):
            scheduler.disagg_decode_retracted_queue = kept
        else:
            super().leave(req)

    def requeue(self, req: Req) -> None:
        """Copy a request's KV out of the pool and take its memory."""
        scheduler = self._scheduler
        # The last token was never fed back; if a batch in flight does it, that result is discarded.
        length = req.seq_len - 1
        slots = scheduler.slots_of(req)[:length]
        contents = scheduler.model.kv.read(slots)
        watched = None if scheduler.kv_watch is None else scheduler.kv_watch.take(slots)
        self._release(req, keep=False)
        req.retraction_count += 1
        scheduler.disagg_decode_retracted_queue.append(RetractedKv(req, contents, length, watched))


class DecodeBatches(BatchBuilder):
    """Makes room for decoding."""

    _scheduler: DecodeScheduler

    def give_way(self) -> None:
        """Free memory; the last running request gives way too while others have memory beside it."""
        scheduler = self._scheduler
        running = scheduler.running_batch.reqs
        if len(running) == 1 and not len(scheduler.in_flight) and scheduler.in_transfer():
            scheduler.departures.retract_running(running[0])
        else:
            super().give_way()


class DecodeScheduler(Scheduler):
    """A scheduler whose requests begin with their first output token.

    Attributes:
        disagg_decode_prealloc_queue: requests without memory, in order of arrival.
        disagg_decode_transfer_queue: requests with memory whose KV is not all there.
        disagg_decode_retracted_queue: requests that gave way, and their KV.
    """

    def __init__(self, args: ServerArgs, *, rooms: Rooms) -> None:
        super().__init__(args)
        self.rooms = rooms
        self.disagg_decode_prealloc_queue: list[Req] = []
        self.disagg_decode_transfer_queue: list[Req] = []
        self.disagg_decode_retracted_queue: list[RetractedKv] = []
        self.departures = DecodeDepartures(self)
        self.batches = DecodeBatches(self)

    def get_next_batch_to_run(self) -> ScheduleBatch | None:
        """Take up what has arrived, hand out memory, and decide on the decode of this iteration."""
        if self.paused is not None:
            return None
        self.take_up_the_arrived()
        self.resume_retracted()
        self.preallocate()
        self.collect_the_arrived()
        return self.batches.next_decode()

    def enqueue(self, req: Req) -> None:
        """Let a request wait for memory, and tell the prefill engine of it."""
        self.disagg_decode_prealloc_queue.append(req)
        self.open_room(req)

    def open_room(self, req: Req) -> None:
        """Open the room in which the engines meet for a request."""
        self.rooms.open(req.rid, prompt_len=len(req.origin_input_ids))

    def owners(self) -> list[Req]:
        """Return the requests that have memory, those in transfer included."""
        return [*super().owners(), *self.in_transfer()]

    def in_transfer(self) -> list[Req]:
        """Return the requests that have memory and do not run yet."""
        return [*self.disagg_decode_transfer_queue, *self.waiting_queue]

    # --- from one queue to the next, last queue first

    def take_up_the_arrived(self) -> None:
        """Let requests run whose KV is there; one that its first token ends, ends."""
        arrived, self.waiting_queue = self.waiting_queue, []
        fresh, ended = [], []
        for req in arrived:
            room = self.rooms.get(req.rid)
            if req.output_ids or room is None:
                continue
            assert room.first is not None, f"{req!r} has arrived without its first token"
            fresh.append(req)
            req.input_logprobs = list(room.first.input_logprobs)
            req.output_logprobs = list(room.first.output_logprobs)
            if self.results.take_token(req, room.first.token):
                ended.append(req)
        if arrived:
            self.set_running([*self.running_batch.reqs, *arrived])
        if fresh:
            self.observer.on_output(fresh)
        if ended:
            self.results.end_finished(ended)

    def resume_retracted(self) -> None:
        """Copy the KV of those back that gave way, oldest first, as far as there is room."""
        while self.disagg_decode_retracted_queue:
            req, contents, length, watched = self.disagg_decode_retracted_queue[0]
            if not self.take_memory(req, length):
                return
            del self.disagg_decode_retracted_queue[0]
            slots = self.slots_of(req)
            self.model.kv.write(slots, contents)
            if self.kv_watch is not None and watched is not None:
                self.kv_watch.put(slots, watched)
            self.set_running([*self.running_batch.reqs, req])

    def preallocate(self) -> None:
        """Give memory to those that wait for it, oldest first, unless somebody gave way."""
        if self.disagg_decode_retracted_queue:
            return
        while self.disagg_decode_prealloc_queue:
            req = self.disagg_decode_prealloc_queue[0]
            if not self.take_memory(req, len(req.origin_input_ids)):
                return
            del self.disagg_decode_prealloc_queue[0]
            self.disagg_decode_transfer_queue.append(req)
            room = self.rooms.get(req.rid)
            assert room is not None, f"{req!r} has no room"
            room.state = RoomState.READY

    def collect_the_arrived(self) -> None:
        """Queue those whose KV has arrived for the coming iteration."""
        for req in list(self.disagg_decode_transfer_queue):
            room = self.rooms.get(req.rid)
            if room is not None and room.state is RoomState.COMPLETE:
                self.disagg_decode_transfer_queue.remove(req)
                self.waiting_queue.append(req)

    def take_memory(self, req: Req, length: int) -> bool:
        """Give a request a row and `length` slots, if those that have memory can go on beside it.

        For each of them, and for the request, `num_reserved_decode_tokens` of what it can still come
        to need are set aside. Returns `False`, and takes nothing, when there is not enough.
        """
        needed = self._growth(0, length) + self._reserved(req, length)
        needed += sum(self._reserved(other, other.kv_allocated_len) for other in self.owners())
        rows, allocator = self.req_to_token_pool, self.token_to_kv_pool_allocator
        if not rows.available_size() or needed > allocator.available_size():
            return False
        taken = rows.alloc(1)
        slots = allocator.alloc_extend(prefix_len=0, seq_len=length, last_loc=-1)
        assert taken is not None, "a row was free"
        assert slots is not None, "pages were free"
        req.req_pool_idx = taken[0]
        rows.req_to_token[taken[0], :length] = slots
        req.kv_committed_len = req.kv_allocated_len = length
        return True

    def _reserved(self, req: Req, start: int) -> int:
        ahead = min(req.remaining_kv_len, self.server_args.num_reserved_decode_tokens)
        return self._growth(start, max(req.seq_len + ahead, start))

    def _growth(self, start: int, end: int) -> int:
        return paged_growth(start, end, self.page_size)
