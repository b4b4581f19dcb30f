"""What the scheduler needs of a model."""

from __future__ import annotations

from typing import NamedTuple, Protocol

from scripted_reference.memory import IntArray
from scripted_reference.schedule_batch import ScheduleBatch


class BatchResult(NamedTuple):
    """What came out of a batch: `int64[batch]`, the next token of each request in batch order.

    That of a request whose prompt is not complete yet means nothing.
    """

    next_token_ids: IntArray


class Model(Protocol):
    """A model bound to its KV pool and to the table of rows."""

    @property
    def vocab_size(self) -> int:
        """Token ids are below it."""

    @property
    def eos_token_id(self) -> int:
        """The end-of-sequence token."""

    def forward(self, batch: ScheduleBatch) -> BatchResult:
        """Compute a prepared batch: write its KV, read each context back, choose the next tokens."""
