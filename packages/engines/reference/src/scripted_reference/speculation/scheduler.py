"""The scheduler of an engine that speculates: a decode takes slots for guesses, and gives some back."""

from __future__ import annotations

from typing import Any

import numpy as np
from scripted_registry.errors import ConfigError

from scripted_reference.args import ServerArgs
from scripted_reference.batching import BatchBuilder
from scripted_reference.errors import OutOfSlotsError
from scripted_reference.memory import IntArray, paged_growth
from scripted_reference.models.base import BatchResult, Model
from scripted_reference.models.factory import load_draft_model, load_model
from scripted_reference.observer import SchedulerObserver
from scripted_reference.request import Req
from scripted_reference.schedule_batch import ScheduleBatch
from scripted_reference.scheduler import Scheduler
from scripted_reference.speculation.accept_lengths import AcceptLengths
from scripted_reference.speculation.arguments import NGRAM
from scripted_reference.speculation.model import SpeculativeModel, VerifyBatch, VerifyingModel
from scripted_reference.speculation.ngram import NgramModel
from scripted_reference.speculation.results import VerifiedResults


class SpeculativeScheduler(Scheduler):
    """A scheduler whose decodes are verifications.

    With overlap a verification is made before the result of the last one is processed: it goes on from
    the tokens that were accepted all the same, as a device does that has them. Slots of guesses that
    were wrong are then used again by the next guesses, and given back when nothing is in flight.

    Attributes:
        guessing_model: the model as it was made; a server meters it, and has another object as `model`.
    """

    guessing_model: VerifyingModel

    results: VerifiedResults

    def __init__(self, args: ServerArgs, *, observer: SchedulerObserver | None = None) -> None:
        super().__init__(args, observer=observer)
        lengths = AcceptLengths()
        self.accept_lengths = lengths
        self.batches = VerifyBatches(self)
        self.results = VerifiedResults(self, accept_lengths=lengths)

    def make_model(self, args: ServerArgs) -> Model:
        """Return the model and what guesses for it, over the same pools."""
        pools: dict[str, Any] = {
            "kv_pool": self.token_to_kv_pool,
            "req_to_token_pool": self.req_to_token_pool,
        }
        if self.memory.window_storage is not None:
            raise ConfigError(
                f"engine arguments speculative_algorithm={args.speculative_algorithm!r} and "
                f"model_path={args.model_path!r} with sliding windows do not go together in the "
                "reference engine",
                hint="drop speculative_algorithm, or use a model without sliding windows",
            )
        target = load_model(args, **pools)
        if args.speculative_algorithm == NGRAM:
            longest = args.speculative_ngram_max_trie_depth
            self.guessing_model = NgramModel(target=target, longest=longest)
        else:
            draft = load_draft_model(args, **pools)
            self.guessing_model = SpeculativeModel(target=target, draft=draft)
        return self.guessing_model

    def run_batch(self, batch: ScheduleBatch) -> BatchResult:
        """Run the models; a verification leaves nothing to advance."""
        if not isinstance(batch, VerifyBatch):
            return super().run_batch(batch)
        self.forward_ct += 1
        self.observer.on_run_batch(batch)
        return self.model.forward(batch)

    def unprocessed_outputs(self) -> dict[Req, list[int]]:
        """Return what is in flight of each running request: the tokens that it will have had."""
        found: dict[Req, list[int]] = {}
        for flying in self.in_flight:
            for req, tokens in self.results.tokens_of(flying.batch, flying.result):
                if req not in flying.discarded:
                    found[req] = [*found.get(req, ()), *tokens]
        return found

    def flush_cache(self) -> bool:
        """Empty the prefix tree, and forget what was remembered for guesses."""
        flushed = super().flush_cache()
        if flushed:
            self.guessing_model.forget()
        return flushed


class VerifyBatches(BatchBuilder):
    """Makes decodes with as many guesses as there is room for: all, or else none."""

    _scheduler: SpeculativeScheduler

    def __init__(self, scheduler: SpeculativeScheduler) -> None:
        super().__init__(scheduler)
        self._steps = scheduler.server_args.speculative_num_steps
        self._wanted: dict[Req, int] = {}
        self._may_guess = True

    def next_decode(self) -> ScheduleBatch | None:
        """Return the running requests, prepared for a verification each."""
        scheduler = self._scheduler
        if scheduler.running_batch.reqs:
            self._want_guesses(scheduler.running_batch.reqs)
            self.make_room_for_decode()
        reqs = scheduler.running_batch.reqs
        if not reqs:
            return None
        unprocessed = scheduler.unprocessed_outputs()
        batch = VerifyBatch(
            reqs,
            draft_lens=[self._draft_len(req, self._may_guess) for req in reqs],
            unprocessed=[unprocessed.get(req, ()) for req in reqs],
        )
        self._prepare(batch)
        return batch

    def _prepare(self, batch: VerifyBatch) -> None:
        starts, newest = [], []
        for req, length, tokens in zip(
            batch.reqs, batch.draft_lens, batch.unprocessed, strict=True
        ):
            start = req.seq_len - 1 + len(tokens)
            batch.slots.append(self._slots(req, start, start + length + 1))
            starts.append(start)
            newest.append(tokens[-1] if tokens else req.output_ids[-1])
        batch.rows = np.array([req.req_pool_idx for req in batch.reqs], dtype=np.int64)
        batch.seq_lens = np.array(starts, dtype=np.int64) + 1
        batch.max_seq_len = int(batch.seq_lens.max())
        batch.input_ids = np.array(newest, dtype=np.int64)
        batch.out_cache_loc = np.concatenate(batch.slots)

    def _slots(self, req: Req, start: int, end: int) -> IntArray:
        """Return the slots of these positions; those that it has not got are taken."""
        row: IntArray = self._rows.req_to_token[req.req_pool_idx]
        had = req.kv_allocated_len
        if end > had:
            last_loc = int(row[had - 1]) if had else -1
            taken = self._allocator.alloc_extend(prefix_len=had, seq_len=end, last_loc=last_loc)
            if taken is None:
                raise OutOfSlotsError(f"{req!r} verifies {end - start - 1} guesses without slots")
            row[had:end] = taken
            req.kv_allocated_len = end
        return row[start:end].copy()

    def _has_room(self) -> bool:
        for may_guess in (True, False):
            if self._scheduler.memory.evict_until(self._growth(may_guess)):
                self._may_guess = may_guess
                return True
        return False

    def _growth(self, may_guess: bool) -> int:
        unprocessed = self._scheduler.unprocessed_outputs()
        needed = 0
        for req in self._scheduler.running_batch.reqs:
            end = req.seq_len + len(unprocessed.get(req, ())) + self._draft_len(req, may_guess)
            had = req.kv_allocated_len
            needed += paged_growth(had, max(had, end), self._page_size)
        return needed

    def _draft_len(self, req: Req, may_guess: bool) -> int:
        return self._wanted[req] if may_guess else 0

    def _want_guesses(self, reqs: list[Req]) -> None:
        """Ask how much there is to guess; no request guesses beyond its last token."""
        unprocessed = self._scheduler.unprocessed_outputs()
        model = self._scheduler.guessing_model
        self._wanted = {}
        for req in reqs:
            ahead = unprocessed.get(req, ())
            left = req.max_new_tokens - len(req.output_ids) - len(ahead) - 1
            most = max(min(self._steps, left), 0)
            tokens = (*req.origin_input_ids, *req.output_ids, *ahead)
            self._wanted[req] = model.guessable(tokens, most)
