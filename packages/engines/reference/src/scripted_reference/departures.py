"""The ways in which a request loses its memory: retraction, abort and its end."""

from __future__ import annotations

from typing import TYPE_CHECKING

from scripted_reference.request import FinishKind, FinishReason, Req

if TYPE_CHECKING:
    from scripted_reference.scheduler import Scheduler


class Departures:
    """Takes requests out of the places where a scheduler keeps those with memory."""

    def __init__(self, scheduler: Scheduler) -> None:
        self._scheduler = scheduler

    def retract_all(self) -> None:
        """Send every request with memory back to the waiting queue."""
        running = self._scheduler.running_batch.reqs
        self._scheduler.set_running([])
        for req in running:
            self.requeue(req)
        self.retract_chunked()

    def retract_running(self, req: Req) -> None:
        """Send one running request back to the waiting queue."""
        self._leave_running(req)
        self.requeue(req)

    def retract_chunked(self) -> None:
        """Send the request that is part way through its prompt, if any, back to the waiting queue."""
        req = self._scheduler.chunked_req
        if req is not None:
            self._scheduler.chunked_req = None
            self.requeue(req)

    def abort(self, req: Req, message: str) -> None:
        """End a request, wherever it is, with reason abort; nothing if it has ended."""
        if req.finished():
            return
        req.finished_reason = FinishReason(FinishKind.ABORT, message)
        self.leave(req)
        self.end(req)

    def leave(self, req: Req) -> None:
        """Take a live request out of the one place where it is."""
        if req is self._scheduler.chunked_req:
            self._scheduler.chunked_req = None
        elif req.req_pool_idx is None:
            self._scheduler.waiting_queue.remove(req)
        else:
            self._leave_running(req)

    def end(self, req: Req) -> None:
        """Give back a finished request's memory and report it: the one place where that happens."""
        if req.req_pool_idx is not None:
            self._release(req, keep=True)
        del self._scheduler.requests[req.rid]
        self._scheduler.observer.on_finish(req)

    def requeue(self, req: Req) -> None:
        """Take a request's memory and queue it again; what it has output so far stays."""
        self._release(req, keep=False)
        req.retraction_count += 1
        self._scheduler.waiting_queue.append(req)

    def _release(self, req: Req, *, keep: bool) -> None:
        self._scheduler.in_flight.discard(req)
        self._scheduler.memory.release(req, keep=keep)

    def _leave_running(self, req: Req) -> None:
        running = self._scheduler.running_batch.reqs
        self._scheduler.set_running([other for other in running if other is not req])
