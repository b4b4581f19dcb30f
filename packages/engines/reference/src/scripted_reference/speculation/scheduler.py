"""The scheduler of an engine that speculates: a decode takes slots for guesses, and gives some back."""

from __future__ import annotations

from collections.abc import Set as AbstractSet
from typing import Any

import numpy as np
from scripted_registry.errors import ConfigError

from scripted_reference.args import ServerArgs
from scripted_reference.batching import BatchBuilder
from scripted_reference.errors import OutOfSlotsError
from scripted_reference.memory import paged_growth
from scripted_reference.models.base import BatchResult, Model
from scripted_reference.models.factory import load_draft_model, load_model
from scripted_reference.observer import SchedulerObserver
from scripted_reference.request import Req
from scripted_reference.results import ResultProcessor
from scripted_reference.schedule_batch import ScheduleBatch
from scripted_reference.scheduler import Scheduler
from scripted_reference.speculation.accept_lengths import AcceptLengths
from scripted_reference.speculation.model import SpeculativeModel, VerifyBatch


class SpeculativeScheduler(Scheduler):
    """A scheduler whose decodes are verifications."""

    def __init__(self, args: ServerArgs, *, observer: SchedulerObserver | None = None) -> None:
        super().__init__(args, observer=observer)
        lengths = AcceptLengths()
        self.accept_lengths = lengths
        self.batches = VerifyBatches(self)
        self.results = VerifiedResults(self, accept_lengths=lengths)

    def make_model(self, args: ServerArgs) -> Model:
        """Return the model and its draft model, over the same pools."""
        pools: dict[str, Any] = {
            "kv_pool": self.token_to_kv_pool,
            "req_to_token_pool": self.req_to_token_pool,
        }
        if self.memory.window is not None:
            raise ConfigError(
                "engine argument speculative_algorithm: a model with sliding windows is not "
                "verified by the reference engine",
                hint="drop it, or use a model without sliding windows",
            )
        return SpeculativeModel(
            target=load_model(args, **pools), draft=load_draft_model(args, **pools)
        )

    def run_batch(self, batch: ScheduleBatch) -> BatchResult:
        """Run the models; a verification leaves nothing to advance."""
        if not isinstance(batch, VerifyBatch):
            return super().run_batch(batch)
        self.forward_ct += 1
        self.observer.on_run_batch(batch)
        return self.model.forward(batch)


class VerifyBatches(BatchBuilder):
    """Makes decodes with as many guesses as there is room for: all, or else none."""

    def __init__(self, scheduler: Scheduler) -> None:
        super().__init__(scheduler)
        self._steps = scheduler.server_args.speculative_num_steps
        self._may_guess = True

    def next_decode(self) -> ScheduleBatch | None:
        """Return the running requests, prepared for a verification each."""
        scheduler = self._scheduler
        if scheduler.running_batch.reqs:
            self.make_room_for_decode()
        reqs = scheduler.running_batch.reqs
        if not reqs:
            return None
        batch = VerifyBatch(reqs, draft_lens=self._draft_lens(self._may_guess))
        table = self._rows.req_to_token
        for req, length in zip(reqs, batch.draft_lens, strict=True):
            row = table[req.req_pool_idx]
            start, end = req.kv_committed_len, req.kv_committed_len + length + 1
            last_loc = int(row[start - 1]) if start else -1
            taken = self._allocator.alloc_extend(prefix_len=start, seq_len=end, last_loc=last_loc)
            if taken is None:
                raise OutOfSlotsError(f"{req!r} verifies {length} guesses without slots for them")
            row[start:end] = taken
            req.kv_allocated_len = end
            batch.slots.append(taken)
        batch.rows = np.array([req.req_pool_idx for req in reqs], dtype=np.int64)
        batch.seq_lens = np.array([req.kv_committed_len + 1 for req in reqs], dtype=np.int64)
        batch.max_seq_len = int(batch.seq_lens.max())
        batch.input_ids = np.array([req.output_ids[-1] for req in reqs], dtype=np.int64)
        batch.out_cache_loc = np.concatenate(batch.slots)
        return batch

    def _has_room(self) -> bool:
        for may_guess in (True, False):
            if self._scheduler.memory.evict_until(self._growth(self._draft_lens(may_guess))):
                self._may_guess = may_guess
                return True
        return False

    def _growth(self, draft_lens: list[int]) -> int:
        return sum(
            paged_growth(req.kv_committed_len, req.kv_committed_len + length + 1, self._page_size)
            for req, length in zip(self._scheduler.running_batch.reqs, draft_lens, strict=True)
        )

    def _draft_lens(self, may_guess: bool) -> list[int]:
        """No request guesses beyond its last token."""
        steps = self._steps if may_guess else 0
        return [
            min(steps, req.max_new_tokens - len(req.output_ids) - 1)
            for req in self._scheduler.running_batch.reqs
        ]


class VerifiedResults(ResultProcessor):
    """Takes the guesses that the model agrees with, and its own choice behind them."""

    def __init__(self, scheduler: Scheduler, *, accept_lengths: AcceptLengths) -> None:
        super().__init__(scheduler)
        self._accept_lengths = accept_lengths

    def process_decode(
        self, batch: ScheduleBatch, result: BatchResult, discarded: AbstractSet[Req]
    ) -> None:
        """Append the tokens of each request, and give the slots of the other guesses back."""
        assert isinstance(batch, VerifyBatch), "every decode is one"
        accepted = self._accepted(batch, result)
        ended = self._take(batch.reqs, accepted)
        for req in batch.reqs:
            self._give_back(req)
        if ended:
            self.end_finished(ended)

    def keep_logprobs(
        self, batch: ScheduleBatch, result: BatchResult, discarded: AbstractSet[Req]
    ) -> None:
        """Keep those of the tokens that are taken; a verification has them for all guesses."""
        if not isinstance(batch, VerifyBatch):
            super().keep_logprobs(batch, result, discarded)
            return
        assert result.logprobs is not None
        at = 0
        accepted = self._accepted(batch, result)
        for req, tokens, length in zip(batch.reqs, accepted, batch.draft_lens, strict=True):
            kept = len(self._until_end(req, tokens))
            for one in result.logprobs[at : at + kept]:
                if one is not None:
                    req.output_logprobs.append(one.output)
            at += length + 1

    def _accepted(self, batch: VerifyBatch, result: BatchResult) -> list[list[int]]:
        said, fed = result.next_token_ids.tolist(), batch.input_ids.tolist()
        found, at = [], 0
        for length in batch.draft_lens:
            right = 0
            while right < length and fed[at + right + 1] == said[at + right]:
                right += 1
            found.append(said[at : at + right + 1])
            at += length + 1
        return found

    def _until_end(self, req: Req, tokens: list[int]) -> list[int]:
        room = req.max_new_tokens - len(req.output_ids)
        for i, token in enumerate(tokens[:room]):
            if token in req.stop_ids:
                return tokens[: i + 1]
        return tokens[:room]

    def _take(self, reqs: list[Req], accepted: list[list[int]]) -> list[Req]:
        """Append the first token of each, then the second, ...: observers are told of one at a time."""
        lengths = self._accept_lengths
        ended: list[Req] = []
        for req in reqs:
            req.spec_verify_ct += 1
        for i in range(max(map(len, accepted))):
            taking = [
                (req, tokens[i])
                for req, tokens in zip(reqs, accepted, strict=True)
                if i < len(tokens) and not req.finished()
            ]
            ended += [req for req, token in taking if self.take_token(req, token)]
            lengths.tokens += len(taking)
            if taking:
                self._scheduler.observer.on_output([req for req, _ in taking])
        lengths.verified += len(reqs)
        return ended

    def _give_back(self, req: Req) -> None:
        """Free what no token has come to; the newest token has no KV yet."""
        committed = req.seq_len - 1
        page = self._scheduler.page_size
        whole = -(-committed // page) * page
        if whole < req.kv_allocated_len:
            row = self._scheduler.req_to_token_pool.req_to_token[req.req_pool_idx]
            self._scheduler.token_to_kv_pool_allocator.free(row[whole : req.kv_allocated_len])
        req.kv_committed_len = req.kv_allocated_len = committed
