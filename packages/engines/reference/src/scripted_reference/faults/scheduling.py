"""Faults of queues, admission, pauses, aborts and replicas."""

from __future__ import annotations

from dataclasses import replace

from scripted_reference.admission import PrefillAdder
from scripted_reference.batching import BatchBuilder
from scripted_reference.control import Control
from scripted_reference.departures import Departures
from scripted_reference.engine import Engine
from scripted_reference.faults.fault import Area, seeded
from scripted_reference.messages import AbortReq, GenerateReq, PauseMode
from scripted_reference.request import Req
from scripted_reference.schedule_batch import ScheduleBatch
from scripted_reference.scheduler import Scheduler

_HERE = Area.SCHEDULING


@seeded(
    "unscheduled-chunk-stashed",
    _HERE,
    stands_for="the stash of `chunked_req` at the head of each iteration, whether it ran or not",
)
class UnscheduledChunkStashed(Scheduler):
    """The stash of a parked prompt takes the next chunk in, although that was never computed."""

    def get_next_batch_to_run(self) -> ScheduleBatch | None:
        """Go on as if the chunk had run."""
        before = self.chunked_req
        batch = super().get_next_batch_to_run()
        parked = batch is None or before not in batch.reqs
        if before is not None and before is self.chunked_req and self.paused is None and parked:
            ahead = before.kv_committed_len + self.page_size
            before.kv_committed_len = min(ahead, len(before.fill_ids) - 1)
            self.tree_cache.cache_unfinished_req(before, chunked=True)
        return batch


@seeded(
    "decodes-while-paused-in-place",
    _HERE,
    stands_for="a pause flag that one of two scheduling paths does not look at",
)
class DecodesWhilePausedInPlace(Scheduler):
    """An engine that is paused in place goes on decoding."""

    def get_next_batch_to_run(self) -> ScheduleBatch | None:
        """Look at the flag for prefills only."""
        if self.paused is PauseMode.IN_PLACE:
            return self.batches.next_decode()
        return super().get_next_batch_to_run()


@seeded(
    "retract-forgets-chunked",
    _HERE,
    stands_for="`pause(retract)` written for the running batch, before chunks outlived an iteration",
)
class RetractForgetsChunked(Departures):
    """A pause that retracts leaves the request alone that is part way through its prompt."""

    def retract_all(self) -> None:
        """Retract what decodes."""
        for req in list(self._scheduler.running_batch.reqs):
            self.retract_running(req)


@seeded(
    "retracted-request-lost",
    _HERE,
    stands_for="a retracted request that no queue gets back",
)
class RetractedRequestLost(Departures):
    """A retracted request gives its memory back and is queued nowhere."""

    def requeue(self, req: Req) -> None:
        """Queue it nowhere."""
        super().requeue(req)
        self._scheduler.waiting_queue.remove(req)


@seeded(
    "retracted-request-runs-on",
    _HERE,
    stands_for="a batch that is filtered by a mask from before the retraction",
)
class RetractedRequestRunsOn(Departures):
    """A request that gave way for want of memory loses its row, and stays in the running batch."""

    def retract_running(self, req: Req) -> None:
        """Put it back where it was."""
        super().retract_running(req)
        self._scheduler.set_running([*self._scheduler.running_batch.reqs, req])


@seeded(
    "aborted-request-stays-queued",
    _HERE,
    stands_for="an abort that answers the client before it has searched the waiting queue",
)
class AbortedRequestStaysQueued(Departures):
    """A waiting request that is aborted ends, and is still in the queue."""

    def abort(self, req: Req, message: str) -> None:
        """End it, and queue it again."""
        waits = req in self._scheduler.waiting_queue
        super().abort(req, message)
        if waits:
            self._scheduler.waiting_queue.append(req)


@seeded(
    "abort-matches-by-prefix",
    _HERE,
    stands_for="SGLang's abort by `rid.startswith`",
)
class AbortMatchesByPrefix(Control):
    """An abort ends every request whose id begins with the one that is meant."""

    def on_abort(self, message: AbortReq) -> None:
        """Abort all that match."""
        for rid in list(self._scheduler.requests):
            if message.rid is not None and rid.startswith(message.rid):
                super().on_abort(replace(message, rid=rid))
        if message.rid is None:
            super().on_abort(message)


@seeded(
    "deferred-abort-lost",
    _HERE,
    stands_for="aborts that a paused engine notes down, in a list that the continue clears first",
)
class DeferredAbortLost(Control):
    """An abort during a pause in place is forgotten when the engine goes on."""

    def resume(self) -> None:
        """Clear the list before it is read."""
        self._deferred_aborts.clear()
        super().resume()


@seeded(
    "continue-drops-chunked",
    _HERE,
    stands_for="a continue that resets the scheduler's state along with the pause flag",
)
class ContinueDropsChunked(Control):
    """After a pause in place the request that was part way through its prompt is in no place."""

    def resume(self) -> None:
        """Begin without a chunked request."""
        super().resume()
        self._scheduler.chunked_req = None


@seeded(
    "chunked-request-overtaken",
    _HERE,
    stands_for="one variable `chunked_req`, and a newcomer that is let in before it is served",
)
class ChunkedRequestOvertaken(BatchBuilder):
    """A newcomer goes before the next chunk; if it is chunked itself, the older one is stranded."""

    def next_prefill(self) -> ScheduleBatch | None:
        """Serve the queue first."""
        scheduler = self._scheduler
        overtaken = scheduler.chunked_req
        if overtaken is None or not scheduler.waiting_queue:
            return super().next_prefill()
        scheduler.chunked_req = None
        batch = super().next_prefill()
        scheduler.chunked_req = scheduler.chunked_req or overtaken
        return batch


@seeded(
    "parked-chunk-never-resumed",
    _HERE,
    stands_for="a chunk that found no room, and nothing that tries again",
)
class ParkedChunkNeverResumed(BatchBuilder):
    """A prompt whose next chunk did not fit once is not continued when there is room again."""

    parked: Req | None = None

    def next_prefill(self) -> ScheduleBatch | None:
        """Pass over what was parked."""
        chunked = self._scheduler.chunked_req
        if chunked is not None and chunked is self.parked:
            return None
        batch = super().next_prefill()
        self.parked = chunked if batch is None else None
        return batch


@seeded(
    "priority-inverted",
    _HERE,
    stands_for="the two conventions for priorities, lower first and higher first",
)
class PriorityInverted(Control):
    """The request with the lowest priority goes first."""

    def on_generate(self, message: GenerateReq) -> None:
        """Change the sign."""
        if message.priority is not None:
            message = replace(message, priority=-message.priority)
        super().on_generate(message)


@seeded(
    "newest-request-first",
    _HERE,
    stands_for="a queue that is filled and emptied at the same end",
)
class NewestRequestFirst(Control):
    """The request that arrived last is served first."""

    def on_generate(self, message: GenerateReq) -> None:
        """Queue it in front."""
        super().on_generate(message)
        queue = self._scheduler.waiting_queue
        queue[:] = queue[-1:] + queue[:-1]


@seeded(
    "admission-ignores-what-is-taken",
    _HERE,
    stands_for="a budget from the size of the pool, not from what is left of it",
)
class AdmissionIgnoresWhatIsTaken(PrefillAdder):
    """Pages of running requests, and pages that are held, count as room for a newcomer."""

    @property
    def free_now(self) -> int:
        """The whole pool, less what this batch takes."""
        return self._allocator.size - self._taken_tokens


@seeded(
    "one-row-too-many",
    _HERE,
    stands_for="`<` where `<=` was meant, in the limit of running requests",
)
class OneRowTooMany(BatchBuilder):
    """One request more is admitted than there are rows."""

    def admit_waiting(self, adder: PrefillAdder, rows_left: int) -> int:
        """Admit one more."""
        return super().admit_waiting(adder, rows_left + 1)


@seeded(
    "dp-rank-ignored",
    _HERE,
    stands_for="a data-parallel front that balances before it looks at the request",
)
class DpRankIgnored(Engine):
    """A request that names its replica is sent to the next one in turn."""

    def _rank_of(self, message: GenerateReq) -> int:
        return super()._rank_of(replace(message, dp_rank=None))
