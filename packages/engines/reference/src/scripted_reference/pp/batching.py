"""The decision on the batch of one microbatch slot, beside those of the others."""

from __future__ import annotations

from typing import TYPE_CHECKING

from scripted_reference.batching import BatchBuilder
from scripted_reference.retract import OUT_OF_MEMORY, pick_victim

if TYPE_CHECKING:
    from scripted_reference.pp.scheduler import PipelineScheduler


class PipelineBatchBuilder(BatchBuilder):
    """Makes the batches of a stage; the requests of one slot never meet those of another."""

    def __init__(self, scheduler: PipelineScheduler) -> None:
        super().__init__(scheduler)
        self._pipeline = scheduler

    def room_for_newcomers(self) -> int:
        """Return how many requests can join this slot: it must not take all of the rows."""
        scheduler = self._pipeline
        in_slot = len(scheduler.running_batch.reqs) + (scheduler.chunked_req is not None)
        return max(min(super().room_for_newcomers(), scheduler.micro_batch_size - in_slot), 0)

    def give_way(self) -> None:
        """Free memory for this slot at the expense of one of it, the chunked one, or another slot's.

        Whoever is retracted with a batch in flight loses that result, and computes it again.
        """
        scheduler = self._pipeline
        running = scheduler.running_batch.reqs
        elsewhere = [req for req in scheduler.decoding() if req not in running]
        if len(running) > 1:
            scheduler.departures.retract_running(pick_victim(running))
        elif scheduler.chunked_req is not None:
            scheduler.departures.retract_chunked()
        elif elsewhere:
            scheduler.departures.retract_running(pick_victim(elsewhere))
        else:
            scheduler.departures.abort(
                running[0], f"{OUT_OF_MEMORY} ({scheduler.memory.describe()})."
            )
