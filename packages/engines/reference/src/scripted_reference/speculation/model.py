"""A model with a draft model beside it: both keep their KV in slots of the same numbers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scripted_registry.errors import ConfigError

from scripted_reference.memory import IntArray
from scripted_reference.models.base import BatchResult, KvStorage, Model
from scripted_reference.request import Req
from scripted_reference.schedule_batch import ForwardMode, ScheduleBatch


class VerifyBatch(ScheduleBatch):
    """A decode of several tokens a request: its newest one, and `draft_lens` guesses behind it.

    `seq_lens` are the lengths with the newest token alone. `slots` has for each request those of the
    newest token and of its guesses.
    """

    __slots__ = ("draft_lens", "slots")

    def __init__(self, reqs: Sequence[Req], *, draft_lens: Sequence[int]) -> None:
        super().__init__(reqs, ForwardMode.DECODE)
        self.draft_lens = list(draft_lens)
        self.slots: list[IntArray] = []


class SpeculativeModel:
    """Guesses with `draft`, verifies with `target`; every other batch goes to both.

    Both have to be bound to the same rows, and to storages of the same size. Raises `ConfigError` for
    models with different vocabularies.
    """

    def __init__(self, *, target: Model, draft: Model) -> None:
        if target.vocab_size != draft.vocab_size:
            raise ConfigError(
                f"the draft model has {draft.vocab_size} tokens and the model {target.vocab_size}",
                hint="speculative_draft_model_path takes a model with the same tokenizer",
            )
        self.target = target
        self.draft = draft

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
        """The model's own storage; what the draft model keeps is no part of it."""
        return self.target.kv

    def forward(self, batch: ScheduleBatch) -> BatchResult:
        """Compute a prepared batch.

        Of a `VerifyBatch` the result has an entry for each token that was verified, request after
        request: what the model says behind it. `batch.input_ids` then has what was fed.
        """
        if not isinstance(batch, VerifyBatch):
            self.draft.forward(batch)
            return self.target.forward(batch)
        fed = self.guess(batch)
        batch.input_ids = np.concatenate(fed)
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

    def guess(self, batch: VerifyBatch) -> list[IntArray]:
        """Return for each request its newest token and the guesses behind it.

        The last guess is fed to the draft model, too: if it is accepted, its KV is there.
        """
        fed = [[int(req.output_ids[-1])] for req in batch.reqs]
        for step in range(max(batch.draft_lens) + 1):
            drafting = [i for i, length in enumerate(batch.draft_lens) if step <= length]
            one = ScheduleBatch([batch.reqs[i] for i in drafting], ForwardMode.DECODE)
            one.rows = batch.rows[drafting]
            one.seq_lens = batch.seq_lens[drafting] + step
            one.max_seq_len = int(one.seq_lens.max())
            one.input_ids = np.array([fed[i][step] for i in drafting], dtype=np.int64)
            one.out_cache_loc = np.array([batch.slots[i][step] for i in drafting], dtype=np.int64)
            said = self.draft.forward(one).next_token_ids.tolist()
            for i, token in zip(drafting, said, strict=True):
                if step < batch.draft_lens[i]:
                    fed[i].append(token)
        return [np.array(tokens, dtype=np.int64) for tokens in fed]
