"""Retraction, abort and pause, which have to reach the requests of every microbatch slot."""

from __future__ import annotations

from typing import TYPE_CHECKING

from scripted_reference.control import Control
from scripted_reference.departures import Departures
from scripted_reference.messages import PauseMode
from scripted_reference.request import Req

if TYPE_CHECKING:
    from scripted_reference.pp.scheduler import PipelineScheduler


class PipelineDepartures(Departures):
    """Takes requests out of whatever slot they are in."""

    def __init__(self, scheduler: PipelineScheduler) -> None:
        super().__init__(scheduler)
        self._pipeline = scheduler

    def retract_all(self) -> None:
        """Send every request with memory back to the waiting queue, first those that arrived first."""
        running = sorted(self._pipeline.decoding(), key=lambda req: req.arrival)
        for slot in range(self._pipeline.loop_size):
            self._pipeline.set_slot(slot, [])
        for req in running:
            self.requeue(req)
        self.retract_chunked()

    def _leave_running(self, req: Req) -> None:
        for slot, batch in enumerate(self._pipeline.running_mbs):
            if req in batch.reqs:
                self._pipeline.set_slot(slot, [one for one in batch.reqs if one is not req])


class PipelineControl(Control):
    """A pause is complete once the slots in flight have drained; a continue before that waits for it."""

    def __init__(self, scheduler: PipelineScheduler) -> None:
        super().__init__(scheduler)
        self._pipeline = scheduler
        self._is_draining = False
        self._resumes_when_drained = False

    def pause(self, mode: PauseMode) -> None:
        """Launch nothing more; what the mode asks for happens when nothing is in flight any more."""
        scheduler = self._pipeline
        mode = PauseMode(mode)  # ValueError for a word that is no mode
        if scheduler.paused is None or mode is PauseMode.RETRACT:
            scheduler.paused = mode
        self._is_draining = True
        self._resumes_when_drained = False
        self.look_whether_drained()

    def resume(self) -> None:
        """Go on scheduling, now or when the pause is complete."""
        if self._is_draining:
            self._resumes_when_drained = True
        else:
            super().resume()

    def look_whether_drained(self) -> None:
        """Complete a pause if nothing is in flight; called whenever a result was processed."""
        scheduler = self._pipeline
        if not self._is_draining or len(scheduler.in_flight):
            return
        self._is_draining = False
        if scheduler.paused is PauseMode.RETRACT:
            scheduler.departures.retract_all()
        if self._resumes_when_drained:
            self._resumes_when_drained = False
            super().resume()
