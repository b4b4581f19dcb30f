"""A model that verifies guesses, and one that makes them with a draft model beside it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np
from scripted_registry.errors import ConfigError

from scripted_reference.memory import IntArray
from scripted_reference.models.base import BatchResult, KvStorage, Model
from scripted_reference.models.hash_model import HashModel
from scripted_reference.request import Req
from scripted_reference.schedule_batch import ForwardMode, ScheduleBatch

if TYPE_CHECKING:
    from scripted_reference.kv_watch import GroupWatch


class VerifyBatch(ScheduleBatch):
    """A decode of several tokens a request: its newest one, and `draft_lens` guesses behind it.

    `input_ids` are the newest tokens, and once it has run all tokens that were fed; `seq_lens` are the
    lengths with the newest token alone. `slots` has for each request those of the newest token and of
    its guesses, `unprocessed` the tokens whose result was in flight when the batch was made.
    """

    __slots__ = ("draft_lens", "slots", "unprocessed")

    def __init__(
        self,
        reqs: Sequence[Req],
        *,
        draft_lens: Sequence[int],
        unprocessed: Sequence[Sequence[int]] = (),
    ) -> None:
        super().__init__(reqs, ForwardMode.DECODE)
        self.draft_lens = list(draft_lens)
        self.unprocessed = list(unprocessed) or [() for _ in reqs]
        self.slots: list[IntArray] = []

    def tokens_of(self, index: int) -> list[int]:
        """Return all tokens of a request up to the newest one."""
        req = self.reqs[index]
        return [*req.origin_input_ids, *req.output_ids, *self.unprocessed[index]]

    def column(self, fed: Sequence[Sequence[int]], step: int, of: Sequence[int]) -> ScheduleBatch:
        """Return a plain decode of token number `step` of `fed`, for the requests `of`."""
        one = ScheduleBatch([self.reqs[i] for i in of], ForwardMode.DECODE)
        one.rows = self.rows[list(of)]
        one.seq_lens = self.seq_lens[list(of)] + step
        one.max_seq_len = int(one.seq_lens.max())
        one.input_ids = np.array([fed[i][step] for i in of], dtype=np.int64)
        one.out_cache_loc = np.array([self.slots[i][step] for i in of], dtype=np.int64)
        return one

    def reaching(self, step: int) -> list[int]:
        """Return the requests, by their place in the batch, that have a token number `step`."""
        return [i for i, length in enumerate(self.draft_lens) if step <= length]


class VerifyingModel:
    """Runs `target` on the guesses of `guess`; any other batch as it is.

    Attributes:
        kv_watch: who is told of forwards of `target`; `None` for nobody.
    """

    def __init__(self, *, target: Model) -> None:
        self.target = target
        self.kv_watch: GroupWatch | None = None
        # A slot of the hash model depends on the one before it, so that it takes them one by one.
        self._at_once = not isinstance(target, HashModel)

    @property
    def vocab_size(self) -> int:
        """Token ids are below it."""
        return self.target.vocab_size

    @property
    def eos_token_id(self) -> int:
        """The end-of-sequence token."""
        return self.target.eos_token_id

    @property
    def supports_logprobs(self) -> bool:
        """Whether there are probabilities to tell of."""
        return self.target.supports_logprobs

    @property
    def lora_names(self) -> frozenset[str]:
        """The adapters that a request may name; the draft model has none of them."""
        return self.target.lora_names

    @property
    def kv(self) -> KvStorage:
        """The model's own storage; what a draft model keeps is no part of it."""
        return self.target.kv

    def forward(self, batch: ScheduleBatch) -> BatchResult:
        """Compute a prepared batch.

        Of a `VerifyBatch` the result has an entry for each token that was verified, request after
        request: what the model says behind it. `batch.input_ids` then has what was fed.
        """
        if not isinstance(batch, VerifyBatch):
            return self.compute(batch)
        fed = self.guess(batch)
        batch.input_ids = np.concatenate(fed)
        watch = self.kv_watch
        if watch is None:
            return self.verify(batch, fed)
        told = watch.describe(batch, [len(tokens) for tokens in fed])
        return watch.run_as(told, batch, lambda: self.verify(batch, fed))

    def verify(self, batch: VerifyBatch, fed: Sequence[IntArray]) -> BatchResult:
        """Compute what the model says behind each token that is fed."""
        return self._verify_at_once(batch, fed) if self._at_once else self._verify(batch, fed)

    def compute(self, batch: ScheduleBatch) -> BatchResult:
        """Compute a batch in which there is nothing to verify."""
        if self.kv_watch is None:
            return self.target.forward(batch)
        return self.kv_watch.run(self.target.forward, batch)

    def guess(self, batch: VerifyBatch) -> list[IntArray]:
        """Return for each request its newest token and the guesses behind it."""
        raise NotImplementedError

    def guessable(self, tokens: Iterable[int], most: int) -> int:
        """Return how many guesses there are to be had behind these tokens, `most` at most."""
        return most

    def remember(self, req: Req) -> None:
        """Do nothing with what a request that has ended said."""

    def forget(self) -> None:
        """There is nothing to forget."""

    def _verify_at_once(self, batch: VerifyBatch, fed: Sequence[IntArray]) -> BatchResult:
        counts = [len(tokens) for tokens in fed]
        verify = ScheduleBatch(
            [req for req, count in zip(batch.reqs, counts, strict=True) for _ in range(count)],
            ForwardMode.DECODE,
        )
        verify.rows = np.repeat(batch.rows, counts)
        verify.seq_lens = np.concatenate(
            [start + np.arange(count) for start, count in zip(batch.seq_lens, counts, strict=True)]
        )
        verify.max_seq_len = int(verify.seq_lens.max())
        verify.input_ids = batch.input_ids
        verify.out_cache_loc = batch.out_cache_loc
        return self.target.forward(verify)

    def _verify(self, batch: VerifyBatch, fed: Sequence[IntArray]) -> BatchResult:
        said = [np.empty_like(tokens) for tokens in fed]
        for step in range(max(batch.draft_lens) + 1):
            verified = batch.reaching(step)
            result = self.target.forward(batch.column([*map(list, fed)], step, verified))
            for i, token in zip(verified, result.next_token_ids.tolist(), strict=True):
                said[i][step] = token
        return BatchResult(np.concatenate(said))


class SpeculativeModel(VerifyingModel):
    """Guesses with `draft`; both models keep their KV in slots of the same numbers.

    Both have to be bound to the same rows, and to storages of the same size. Raises `ConfigError` for
    models with different vocabularies.

    Attributes:
        draft_kv_watch: who is told of forwards of `draft`; `None` for nobody.
        draft_forwards: how many batches the draft model has run.
    """

    def __init__(self, *, target: Model, draft: Model) -> None:
        if target.vocab_size != draft.vocab_size:
            raise ConfigError(
                f"the draft model has {draft.vocab_size} tokens and the model {target.vocab_size}",
                hint="speculative_draft_model_path takes a model with the same tokenizer",
            )
        super().__init__(target=target)
        self.draft = draft
        self.draft_kv_watch: GroupWatch | None = None
        self.draft_forwards = 0

    def compute(self, batch: ScheduleBatch) -> BatchResult:
        """Compute a prompt with both models."""
        self._forward_draft(batch)
        return super().compute(batch)

    def guess(self, batch: VerifyBatch) -> list[IntArray]:
        """Return for each request its newest token and the guesses behind it.

        The last guess is fed to the draft model, too: if it is accepted, its KV is there.
        """
        fed = [[token] for token in batch.input_ids.tolist()]
        for step in range(max(batch.draft_lens) + 1):
            drafting = batch.reaching(step)
            one = batch.column(fed, step, drafting)
            said = self._forward_draft(one).next_token_ids.tolist()
            for i, token in zip(drafting, said, strict=True):
                if step < batch.draft_lens[i]:
                    fed[i].append(token)
        return [np.array(tokens, dtype=np.int64) for tokens in fed]

    def _forward_draft(self, batch: ScheduleBatch) -> BatchResult:
        self.draft_forwards += 1
        watch = self.draft_kv_watch
        return self.draft.forward(batch) if watch is None else watch.run(self.draft.forward, batch)
