"""What the scheduler needs of a model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import numpy.typing as npt

from scripted_reference.memory import IntArray
from scripted_reference.schedule_batch import ScheduleBatch


class TokenLogprobs(NamedTuple):
    """Natural log probabilities at one position: of the token there, and of the likeliest ones.

    `logprob` is `None` for the first token of a prompt, which nothing predicts. `top` holds
    (token id, logprob) pairs, the likeliest first.
    """

    token_id: int
    logprob: float | None
    top: tuple[tuple[int, float], ...] = ()


class ReqLogprobs(NamedTuple):
    """What one request asked to know of one batch.

    Attributes:
        output: of the token that the batch generated.
        prompt: of prompt positions from `logprob_start_len` on, in order. A batch that computes the
            positions from `start` up to, not including, `end` tells of `start + 1` to `end`, which
            are those that it predicts, as far as they belong to the prompt; and of position 0 when
            `start` is 0. So over the chunks of a prompt every position comes exactly once.
    """

    output: TokenLogprobs
    prompt: tuple[TokenLogprobs, ...] = ()


class BatchResult(NamedTuple):
    """What came out of a batch: `int64[batch]`, the next token of each request in batch order.

    That of a request whose prompt is not complete yet means nothing. `logprobs` has an entry for each
    request, `None` for one that did not ask; it is itself `None` when nobody did.
    """

    next_token_ids: IntArray
    logprobs: tuple[ReqLogprobs | None, ...] | None = None


class KvStorage(Protocol):
    """What a model remembers of the tokens in its slots, to be copied as it is."""

    def read(self, slots: IntArray) -> npt.NDArray[Any]:
        """Return a copy of the contents of these slots, in a format of the model's own."""

    def buffers(self, *, in_window: bool) -> Sequence[Any]:
        """Return arrays `[slots, ...]`, the memory itself, of layers with a window or without."""

    def write(self, slots: IntArray, contents: npt.NDArray[Any]) -> None:
        """Overwrite as many slots with what `read` returned, of this storage or one of its kind."""


class Model(Protocol):
    """A model bound to its KV storage and to the table of rows.

    `forward` reads of each request of the batch: `sampling_params` (`temperature`, `seed`),
    `return_logprob`, `logprob_start_len`, `top_logprobs_num` and `lora_path`.
    """

    @property
    def kv(self) -> KvStorage:
        """Its KV storage."""

    @property
    def vocab_size(self) -> int:
        """Token ids are below it."""

    @property
    def eos_token_id(self) -> int:
        """The end-of-sequence token."""

    @property
    def supports_logprobs(self) -> bool:
        """Whether there are probabilities to tell of."""

    @property
    def lora_names(self) -> frozenset[str]:
        """The adapters that a request may name."""

    def forward(self, batch: ScheduleBatch) -> BatchResult:
        """Compute a prepared batch: write its KV, read each context back, choose the next tokens."""
