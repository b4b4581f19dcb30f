"""What the messages of the inbox do to a scheduler."""

from __future__ import annotations

from typing import TYPE_CHECKING

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
from scripted_reference.request import FinishKind, FinishReason, Req

if TYPE_CHECKING:
    from scripted_reference.scheduler import Scheduler


class Control:
    """Takes requests in, and pauses, resumes and aborts."""

    def __init__(self, scheduler: Scheduler) -> None:
        self._scheduler = scheduler
        self._arrivals = 0
        self._deferred_aborts: list[tuple[Req, str]] = []

    def handle(self, message: Message) -> None:
        """Let one message take effect."""
        match message:
            case GenerateReq():
                self.on_generate(message)
            case AbortReq():
                self.on_abort(message)
            case PauseReq(mode):
                self.pause(mode)
            case ContinueReq():
                self.resume()
            case FlushCacheReq(reply):
                reply(self._scheduler.flush_cache())
            case CallReq(fn):
                fn(self._scheduler)

    def on_generate(self, message: GenerateReq) -> None:
        """Queue a request; one that is refused ends at once."""
        scheduler = self._scheduler
        req = self.new_req(message)
        refusal = scheduler.refusal(message)
        if refusal is not None:
            # The front validates; whoever goes past it still gets an answer, not a dead engine.
            req.finished_reason = FinishReason(FinishKind.ABORT, refusal)
            scheduler.observer.on_finish(req)
            return
        scheduler.requests[req.rid] = req
        scheduler.enqueue(req)

    def on_abort(self, message: AbortReq) -> None:
        """End the requests that are meant; while paused in place, when the engine continues."""
        scheduler = self._scheduler
        if message.rid is None:
            targets = list(scheduler.requests.values())
        else:
            found = scheduler.find_req(message.rid)
            targets = [] if found is None else [found]
        if scheduler.paused is PauseMode.IN_PLACE:
            self._deferred_aborts.extend((req, message.message) for req in targets)
            return
        for req in targets:
            scheduler.departures.abort(req, message.message)

    def pause(self, mode: PauseMode) -> None:
        """Stop scheduling; see `Scheduler.pause`."""
        scheduler = self._scheduler
        mode = PauseMode(mode)  # ValueError for a word that is no mode
        if scheduler.paused is None or mode is PauseMode.RETRACT:
            scheduler.paused = mode
        if mode is PauseMode.RETRACT:
            scheduler.process_in_flight()
            scheduler.departures.retract_all()

    def resume(self) -> None:
        """Go on scheduling; what was aborted while paused in place ends now."""
        self._scheduler.paused = None
        deferred, self._deferred_aborts = self._deferred_aborts, []
        for req, message in deferred:
            # After a pause in place and then one that retracts, a prefill engine may have let go of it.
            if self._scheduler.find_req(req.rid) is req:
                self._scheduler.departures.abort(req, message)

    def new_req(self, message: GenerateReq) -> Req:
        """Return the request of a message, next in the order of arrival."""
        scheduler = self._scheduler
        params, prompt = message.sampling_params, list(message.input_ids)
        req = Req(
            rid=message.rid,
            origin_input_ids=prompt,
            sampling_params=params,
            max_new_tokens=scheduler.limits.clip_new_tokens(
                prompt_len=len(prompt), max_new_tokens=params.max_new_tokens
            ),
            eos_token_id=scheduler.model.eos_token_id,
            arrival=self._arrivals,
            priority=message.priority,
            return_logprob=message.return_logprob,
            logprob_start_len=message.logprob_start_len,
            top_logprobs_num=message.top_logprobs_num,
            lora_path=message.lora_path,
            bootstrap=message.bootstrap,
        )
        self._arrivals += 1
        return req
