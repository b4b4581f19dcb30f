"""One stage of the `hash` model: a share of its one sum, over a KV pool of its own.

Every stage stores word and chain of each token in its own pool, and reads all of the context back from
there. It weighs them by multipliers of its own; those of all stages add up to the model's, so the next
tokens are those of the model in one piece, however many stages there are. What goes from stage to stage
is the sum so far, `uint64[batch]`. A wrong slot on any stage changes the sum, for certain on all but the
last, whose multipliers are what is left and need not be odd.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from scripted_reference.memory import ReqToTokenPool, TokenToKVPool
from scripted_reference.models.base import BatchResult
from scripted_reference.models.hash_arrays import WordArray, mix64_array, words
from scripted_reference.models.hash_model import HashModel
from scripted_reference.models.hash_weights import GOLDEN_GAMMA, mix64
from scripted_reference.pp.stage import Hidden, Stage
from scripted_reference.schedule_batch import ScheduleBatch

_SHARES_SEED: Final = 0x70697065  # of streams that nothing else of the model uses


class HashStage(HashModel):
    """A stage over one KV pool."""

    def __init__(
        self,
        stage: Stage,
        *,
        kv_pool: TokenToKVPool,
        req_to_token_pool: ReqToTokenPool,
        seed: int = 0,
    ) -> None:
        super().__init__(kv_pool=kv_pool, req_to_token_pool=req_to_token_pool, seed=seed)
        self._is_last = stage.is_last
        self._slot_weights = _share(self._slot_weights, stage, seed=seed)

    def forward_stage(self, batch: ScheduleBatch, hidden: Hidden) -> Hidden | BatchResult:
        """Add this stage's share to the sums."""
        sums = self._sums(batch)
        if hidden is not None:
            sums = sums + hidden
        if self._is_last:
            return BatchResult(self._next_tokens(sums, batch.reqs))
        return sums


def _share(whole: WordArray, stage: Stage, *, seed: int) -> WordArray:
    """Return this stage's part of the multipliers `uint64[positions, 2]`."""
    if not stage.is_last:
        return _odd(whole.shape, stage.index, seed=seed)
    others = np.zeros_like(whole)
    for index in range(stage.count - 1):
        others += _odd(whole.shape, index, seed=seed)
    return whole - others


def _odd(shape: tuple[int, ...], index: int, *, seed: int) -> WordArray:
    numbers = np.arange(1, int(np.prod(shape)) + 1, dtype=np.uint64)
    start = words(mix64(mix64(seed) + mix64(_SHARES_SEED + index)))
    drawn: WordArray = mix64_array(start + numbers * words(GOLDEN_GAMMA)) | words(1)
    return drawn.reshape(shape)
