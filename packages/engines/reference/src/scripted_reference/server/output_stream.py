"""What the scheduler tells the front of its requests: after each iteration, what is new."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from scripted_reference.request import Req
from scripted_reference.schedule_batch import ScheduleBatch
from scripted_reference.server.wire import Finish, Output, Outputs


@dataclass(slots=True)
class _Told:
    """What the front knows of a request."""

    tokens: int = 0
    output_logprobs: int = 0
    input_logprobs: int = 0
    cached_tokens: int = 0


class OutputStream:
    """Collects what happens in an iteration and sends it as one message at its end."""

    def __init__(self, send: Callable[[Outputs], None]) -> None:
        self._send = send
        self._told: dict[str, _Told] = {}
        self._news: dict[str, Req] = {}

    def on_run_batch(self, batch: ScheduleBatch) -> None:
        """Note how much of a prompt was cached when its first chunk is computed."""
        if not batch.forward_mode.is_extend():
            return
        for req, cached in zip(batch.reqs, batch.prefix_lens, strict=True):
            if req.rid not in self._told:
                self._told[req.rid] = _Told(cached_tokens=min(cached, len(req.origin_input_ids)))

    def on_output(self, reqs: Sequence[Req]) -> None:
        """These requests have new tokens."""
        for req in reqs:
            self._news[req.rid] = req

    def on_finish(self, req: Req) -> None:
        """A request has ended."""
        self._news[req.rid] = req

    def flush(self) -> None:
        """Send what is new."""
        if self._news:
            self._send(Outputs([self._output(req) for req in self._news.values()]))
            self._news.clear()

    def _output(self, req: Req) -> Output:
        told = self._told.setdefault(req.rid, _Told())
        reason = req.finished_reason
        output = Output(
            rid=req.rid,
            token_ids=req.output_ids[told.tokens :],
            output_logprobs=req.output_logprobs[told.output_logprobs :],
            input_logprobs=req.input_logprobs[told.input_logprobs :],
            cached_tokens=told.cached_tokens,
            spec_verify_ct=req.spec_verify_ct,
            finish=None
            if reason is None
            else Finish(reason.kind.value, reason.message, reason.matched_token),
        )
        told.tokens = len(req.output_ids)
        told.output_logprobs = len(req.output_logprobs)
        told.input_logprobs = len(req.input_logprobs)
        if reason is not None:
            del self._told[req.rid]
        return output
