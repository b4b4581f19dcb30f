"""Faults of pipelines: slots that are mixed up or forgotten, and stages that do not stay alike."""

from __future__ import annotations

from scripted_reference.faults.fault import Area, seeded
from scripted_reference.models.base import BatchResult
from scripted_reference.pp.batching import PipelineBatchBuilder
from scripted_reference.pp.departures import PipelineControl, PipelineDepartures
from scripted_reference.pp.scheduler import PipelineScheduler
from scripted_reference.request import Req

_HERE = Area.PIPELINE


@seeded(
    "result-of-another-slot",
    _HERE,
    stands_for="results that are matched to microbatches by their number, modulo the wrong one",
)
class ResultOfAnotherSlot(PipelineScheduler):
    """A batch gets the result of the batch before it, where both have as many requests."""

    _result_before: BatchResult | None = None

    def take_result(self) -> BatchResult:
        """Swap with the one before."""
        result, before = super().take_result(), self._result_before
        self._result_before = result
        fits = before is not None and len(before.next_token_ids) == len(result.next_token_ids)
        return before if fits and before is not None else result


@seeded(
    "retract-misses-slots",
    _HERE,
    stands_for="a pause that retracts the current microbatch only, as SGLang's does",
)
class RetractMissesSlots(PipelineDepartures):
    """A pause puts the requests of one slot back; those of the others stay."""

    def retract_all(self) -> None:
        """Look at the slot in place."""
        running = self._pipeline.running_batch.reqs
        self._pipeline.set_running([])
        for req in running:
            self.requeue(req)
        self.retract_chunked()


@seeded(
    "abort-misses-slots",
    _HERE,
    stands_for="an abort that looks for its request in the running batch",
)
class AbortMissesSlots(PipelineDepartures):
    """A request that ends is taken out of the slot in place only, and decodes on in any other."""

    def _leave_running(self, req: Req) -> None:
        running = self._pipeline.running_batch.reqs
        self._pipeline.set_running([one for one in running if one is not req])


@seeded(
    "flush-with-slots-in-flight",
    _HERE,
    stands_for="an idle check that looks at the queues, which are empty while a prompt is in flight",
)
class FlushWithSlotsInFlight(PipelineScheduler):
    """A flush is done while the only request is in a slot that is in flight."""

    def can_flush(self) -> bool:
        """Look at the queues and the slot in place."""
        busy = self.waiting_queue or self.chunked_req is not None or self.running_batch.reqs
        return not busy and not self.tree_cache.protected_size()


@seeded(
    "continue-lost-while-draining",
    _HERE,
    stands_for="a continue that finds the pause not in force yet",
)
class ContinueLostWhileDraining(PipelineControl):
    """A continue that comes before a pause is complete is forgotten."""

    def resume(self) -> None:
        """Do nothing while slots are in flight."""
        if not self._is_draining:
            super().resume()


@seeded(
    "pause-launches-on",
    _HERE,
    stands_for="an event loop that never reads whether it is paused",
)
class PauseLaunchesOn(PipelineControl):
    """A pause in place has no effect."""

    def look_whether_drained(self) -> None:
        """Go on as soon as nothing is in flight."""
        self._resumes_when_drained = self._resumes_when_drained or self._is_draining
        super().look_whether_drained()


@seeded(
    "stage-keeps-a-retracted-row",
    _HERE,
    stands_for="an operation that reaches the first rank only",
)
class StageKeepsARetractedRow(PipelineDepartures):
    """Later stages admit what the first one put back without queueing it anew."""

    def requeue(self, req: Req) -> None:
        """Queue it in front on later stages."""
        super().requeue(req)
        queue = self._pipeline.waiting_queue
        if not self._pipeline.stage.is_first and len(queue) > 1:
            queue.insert(0, queue.pop())


@seeded(
    "slot-takes-every-row",
    _HERE,
    stands_for="a limit of running requests that is not divided by the pipeline's size",
)
class SlotTakesEveryRow(PipelineBatchBuilder):
    """One microbatch slot admits as many requests as there are rows."""

    def room_for_newcomers(self) -> int:
        """Count rows only."""
        return self._rows.available_size()
