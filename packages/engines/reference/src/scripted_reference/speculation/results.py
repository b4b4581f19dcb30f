"""What becomes of a verification: the right guesses are taken, and the model's choice behind them."""

from __future__ import annotations

from collections.abc import Iterator
from collections.abc import Set as AbstractSet
from typing import TYPE_CHECKING

from scripted_reference.models.base import BatchResult
from scripted_reference.request import Req
from scripted_reference.results import ResultProcessor
from scripted_reference.schedule_batch import ScheduleBatch
from scripted_reference.speculation.accept_lengths import AcceptLengths
from scripted_reference.speculation.model import VerifyBatch

if TYPE_CHECKING:
    from scripted_reference.speculation.scheduler import SpeculativeScheduler


class VerifiedResults(ResultProcessor):
    """Takes the guesses that the model agrees with, and its own choice behind them."""

    _scheduler: SpeculativeScheduler

    def __init__(self, scheduler: SpeculativeScheduler, *, accept_lengths: AcceptLengths) -> None:
        super().__init__(scheduler)
        self._accept_lengths = accept_lengths

    def process_decode(
        self, batch: ScheduleBatch, result: BatchResult, discarded: AbstractSet[Req]
    ) -> None:
        """Append the tokens of each request, and give the slots of the other guesses back."""
        assert isinstance(batch, VerifyBatch), "every decode is one"
        kept = [
            (req, tokens)
            for req, tokens in zip(batch.reqs, self.accepted(batch, result), strict=True)
            if req not in discarded
        ]
        if not kept:
            return
        ended = self._take(kept)
        for req, _ in kept:
            self.give_back(req)
        if ended:
            self.end_finished(ended)

    def end_finished(self, ended: list[Req]) -> None:
        """End requests; what they said may help to guess what others will."""
        for req in ended:
            self._scheduler.guessing_model.remember(req)
        super().end_finished(ended)

    def keep_logprobs(
        self, batch: ScheduleBatch, result: BatchResult, discarded: AbstractSet[Req]
    ) -> None:
        """Keep those of the tokens that are taken; a verification has them for all guesses."""
        if not isinstance(batch, VerifyBatch):
            super().keep_logprobs(batch, result, discarded)
            return
        assert result.logprobs is not None
        at = 0
        accepted = self.accepted(batch, result)
        for req, tokens, length in zip(batch.reqs, accepted, batch.draft_lens, strict=True):
            if req not in discarded:
                kept = len(self.until_end(req, tokens))
                for one in result.logprobs[at : at + kept]:
                    if one is not None:
                        req.output_logprobs.append(one.output)
            at += length + 1

    def tokens_of(
        self, batch: ScheduleBatch, result: BatchResult
    ) -> Iterator[tuple[Req, list[int]]]:
        """Yield the requests of a batch with the tokens that its result will give them."""
        if isinstance(batch, VerifyBatch):
            for req, tokens in zip(batch.reqs, self.accepted(batch, result), strict=True):
                yield req, self.until_end(req, tokens)
            return
        for req, token in zip(batch.reqs, result.next_token_ids.tolist(), strict=True):
            if req is not batch.chunked_req:
                yield req, [token]

    def accepted(self, batch: VerifyBatch, result: BatchResult) -> list[list[int]]:
        """Return for each request the guesses that are right, and the token behind them."""
        said, fed = result.next_token_ids.tolist(), batch.input_ids.tolist()
        found, at = [], 0
        for length in batch.draft_lens:
            right = 0
            while right < length and fed[at + right + 1] == said[at + right]:
                right += 1
            found.append(said[at : at + right + 1])
            at += length + 1
        return found

    def until_end(self, req: Req, tokens: list[int]) -> list[int]:
        """Return those tokens that a request still takes before it ends."""
        room = req.max_new_tokens - len(req.output_ids)
        for i, token in enumerate(tokens[:room]):
            if token in req.stop_ids:
                return tokens[: i + 1]
        return tokens[:room]

    def give_back(self, req: Req) -> None:
        """Free what no token has come to, unless it is being computed; the newest has no KV yet."""
        committed = req.seq_len - 1
        req.kv_committed_len = committed
        if len(self._scheduler.in_flight):
            return
        page = self._scheduler.page_size
        whole = -(-committed // page) * page
        if whole < req.kv_allocated_len:
            row = self._scheduler.req_to_token_pool.req_to_token[req.req_pool_idx]
            self._scheduler.token_to_kv_pool_allocator.free(row[whole : req.kv_allocated_len])
        req.kv_allocated_len = committed

    def _take(self, kept: list[tuple[Req, list[int]]]) -> list[Req]:
        """Append the first token of each, then the second, ...: observers are told of one at a time."""
        lengths = self._accept_lengths
        ended: list[Req] = []
        for req, _ in kept:
            req.spec_verify_ct += 1
        for i in range(max(len(tokens) for _, tokens in kept)):
            taking = [
                (req, tokens[i]) for req, tokens in kept if i < len(tokens) and not req.finished()
            ]
            ended += [req for req, token in taking if self.take_token(req, token)]
            lengths.tokens += len(taking)
            if taking:
                self._scheduler.observer.on_output([req for req, _ in taking])
        lengths.verified += len(kept)
        return ended
