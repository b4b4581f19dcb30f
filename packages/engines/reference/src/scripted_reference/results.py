"""What becomes of a batch's result: tokens appended, log probabilities kept, requests ended."""

from __future__ import annotations

from collections.abc import Set as AbstractSet
from typing import TYPE_CHECKING

from scripted_reference.in_flight import NOTHING_DISCARDED
from scripted_reference.models.base import BatchResult
from scripted_reference.request import Req
from scripted_reference.schedule_batch import ScheduleBatch

if TYPE_CHECKING:
    from scripted_reference.scheduler import Scheduler


class ResultProcessor:
    """Applies results to the requests of a scheduler."""

    def __init__(self, scheduler: Scheduler) -> None:
        self._scheduler = scheduler

    def process(
        self,
        batch: ScheduleBatch,
        result: BatchResult,
        *,
        discarded: AbstractSet[Req] = NOTHING_DISCARDED,
    ) -> None:
        """Apply a result, passing over the requests in `discarded`."""
        if result.logprobs is not None:
            self.keep_logprobs(batch, result, discarded)
        if batch.forward_mode.is_decode():
            self.process_decode(batch, result, discarded)
        else:
            self.process_extend(batch, result, discarded)

    def process_extend(
        self, batch: ScheduleBatch, result: BatchResult, discarded: AbstractSet[Req]
    ) -> None:
        """Take the first token of each complete prompt, and leave its KV to the prefix tree."""
        extended: list[Req] = []
        ended: list[Req] = []
        for req, token in zip(batch.reqs, result.next_token_ids.tolist(), strict=True):
            if req in discarded:
                continue
            if req is batch.chunked_req:
                req.is_chunked -= 1
                continue
            extended.append(req)
            if self.take_token(req, token):
                ended.append(req)
            else:
                self._scheduler.tree_cache.cache_unfinished_req(req)
        if extended:
            self._scheduler.observer.on_output(extended)
        if ended:
            self.end_finished(ended)

    def process_decode(
        self, batch: ScheduleBatch, result: BatchResult, discarded: AbstractSet[Req]
    ) -> None:
        """Take the next token of each request."""
        decoded = batch.reqs
        tokens = result.next_token_ids.tolist()
        if discarded:
            kept = [i for i, req in enumerate(decoded) if req not in discarded]
            decoded, tokens = [decoded[i] for i in kept], [tokens[i] for i in kept]
        take = self.take_token
        ended = [req for req, token in zip(decoded, tokens, strict=True) if take(req, token)]
        if decoded:
            self._scheduler.observer.on_output(decoded)
        if ended:
            self.end_finished(ended)

    def take_token(self, req: Req, token: int) -> bool:
        """Append a new output token; return whether the request ends with it."""
        req.output_ids.append(token)
        if len(req.output_ids) < req.max_new_tokens and token not in req.stop_ids:
            return False
        req.finished_reason = req.finish_after(token)
        return True

    def end_finished(self, ended: list[Req]) -> None:
        """Take what has just finished out of the running requests, and end it."""
        scheduler = self._scheduler
        scheduler.set_running([req for req in scheduler.running_batch.reqs if not req.finished()])
        for req in ended:
            # The last token is never fed back. If a batch in flight did it all the same, that slot
            # goes back without ever getting into the prefix tree.
            req.kv_committed_len = min(req.kv_committed_len, req.seq_len - 1)
            scheduler.departures.end(req)

    def keep_logprobs(
        self, batch: ScheduleBatch, result: BatchResult, discarded: AbstractSet[Req]
    ) -> None:
        """Add the log probabilities of a result to what the requests have of them."""
        assert result.logprobs is not None
        starts = batch.prefix_lens or [0] * len(batch.reqs)
        for req, start, logprobs in zip(batch.reqs, starts, result.logprobs, strict=True):
            if logprobs is None or req in discarded:
                continue
            if logprobs.prompt:
                req.keep_input_logprobs(logprobs.prompt, computed_from=start)
            if req is not batch.chunked_req:
                req.output_logprobs.append(logprobs.output)
