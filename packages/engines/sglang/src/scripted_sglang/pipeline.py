"""Pause under pipeline parallelism, which SGLang's loop for it passes over.

``event_loop_pp`` never looks at ``_engine_paused``, and a retraction takes the requests of the current
microbatch only (docs/findings/sglang-pp-pause.md in the repository). While a pause is in force, every
stage is given an empty plan in every slot. What is in flight has drained once each slot has had one;
only then is everything retracted, from all microbatches at once. Every stage comes to that in the same
iteration: each decides by what it has received, and that is the same in the same iteration.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from scripted_sglang import _compat


class PipelinePause:
    """The pause of one stage. Where it does not emulate, everything is left to SGLang."""

    def __init__(self, scheduler: Any, *, stages: int) -> None:
        self._scheduler = scheduler
        self.emulates = stages > 1
        self._retraction: tuple[Callable[..., Any], Any] | None = None
        self._deferred: list[tuple[Callable[..., Any], Any]] = []

    def pause(self, original: Callable[..., Any], request: Any) -> Any:
        """AROUND ``pause_generation``."""
        if not self.emulates:
            return original(self._scheduler, request)
        if self._deferred:
            self._deferred.append((self._pause, (original, request)))
            return None
        return self._pause(original, request)

    def _pause(self, original: Callable[..., Any], request: Any) -> Any:
        if request.mode == "in_place":
            return original(self._scheduler, request)
        self._scheduler._engine_paused = True
        if self._retraction is None:
            self._retraction = (original, request)
        return None

    def resume(self, original: Callable[..., Any], request: Any) -> Any:
        """AROUND ``continue_generation``: not before a retraction that is under way."""
        if self._retraction is not None:
            self._deferred.append((original, (self._scheduler, request)))
            return None
        return original(self._scheduler, request)

    def plan(self, original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """AROUND ``get_next_batch_to_run``: nothing to run while paused."""
        scheduler = self._scheduler
        if not self.emulates or not scheduler._engine_paused:
            return original(scheduler, *args, **kwargs)
        if self._retraction is not None and not _compat.is_in_flight(scheduler):
            self._retract_everything()
            if not scheduler._engine_paused:
                # What ran last in this slot has gone back to the queue with the rest.
                gone = {"last_batch": None} if "last_batch" in kwargs else {}
                return original(scheduler, *args, **{**kwargs, **gone})
        return _compat.empty_plan(scheduler.running_batch)

    def _retract_everything(self) -> None:
        assert self._retraction is not None, "asked for"
        original, request = self._retraction
        self._retraction = None
        scheduler = self._scheduler
        # SGLang retracts what is in the running batch, and every request once.
        scheduler.running_batch.reqs = list(self._with_memory())
        scheduler.last_batch = None
        original(scheduler, request)
        for batch in scheduler.running_mbs:
            batch.reqs = []
            batch.batch_is_full = False
        scheduler.last_mbs[:] = [None] * len(scheduler.last_mbs)
        deferred, self._deferred = self._deferred, []
        for call, arguments in deferred:
            call(*arguments)

    def _with_memory(self) -> Iterator[Any]:
        seen: set[str] = set()
        for batch in _compat.microbatches(self._scheduler):
            for req in batch.reqs:
                if req.rid not in seen and self._holds_memory(req):
                    seen.add(req.rid)
                    yield req

    @staticmethod
    def _holds_memory(req: Any) -> bool:
        return not req.finished() and _compat.row_of(req) is not None

    def abort(self, request: Any) -> None:
        """AFTER ``abort_request``, which looks into running and in-flight microbatches.

        While paused in place, a request that was just prefilled is in neither.
        """
        if not self.emulates or not self._scheduler._engine_paused:
            return
        for req in self._between_batches():
            if request.abort_all or req.rid.startswith(request.rid):
                req.to_finish = _compat.abort_finish()

    def is_fully_idle(self, claimed: bool) -> bool:
        """AROUND ``is_fully_idle``, which does not look there either."""
        if not claimed or not self.emulates:
            return claimed
        return self._retraction is None and not any(True for _ in self._between_batches())

    def _between_batches(self) -> Iterator[Any]:
        """Requests of a batch that ran last in its slot; those that run on are in another as well."""
        chunked = self._scheduler.chunked_req
        for batch in getattr(self._scheduler, "last_mbs", ()):
            for req in () if batch is None else batch.reqs:
                if req is not chunked and self._holds_memory(req):
                    yield req
