"""The `hash` model: no matrices, yet every token depends on every slot of its context.

Each step stores for a token at position `i`, in the slot that the scheduler chose,

    word[i]  = token[i] + 2**32 * i
    chain[i] = growth * chain[i-1] + chain_in * word[i] + chain_offset

where `chain[i-1]` is read back from the pool. The next token of a context of `n` slots is

    mix64(output_offset + sum over i < n of
          m[i] * (slot_word * stored_word[i] + slot_chain * stored_chain[i])) mod vocab_size

with everything under the sum read back from the pool through the request's row, and `m[i]` an odd
multiplier that belongs to the position at which the slot is *expected*. All modulo 2**64, where odd
numbers have inverses: a wrong token, position or chain in any one slot changes the sum for certain,
and the token but for a chance of one in `vocab_size`. `models/closed_form.py` computes the same tokens
without a pool.

A request whose temperature is not greedy (see `models/temperature.py`) has an `output_offset` of its
own, drawn from its sampling seed (the engine's `random_seed` by default): other tokens, which depend on
nothing but the context and that seed. How high the temperature is makes no difference.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from scripted_reference.memory import IntArray, ReqToTokenPool, TokenToKVPool
from scripted_reference.models.base import BatchResult
from scripted_reference.models.hash_weights import (
    EOS_TOKEN_ID,
    GOLDEN_GAMMA,
    MASK_64,
    MIX_1,
    MIX_2,
    VOCAB_SIZE,
    HashWeights,
    sampling_offset,
)
from scripted_reference.models.temperature import is_greedy
from scripted_reference.request import Req
from scripted_reference.schedule_batch import ScheduleBatch

WordArray = npt.NDArray[np.uint64]


class HashModel:
    """The `hash` model over one KV pool, vectorized: a decode batch costs a few tens of µs."""

    def __init__(
        self,
        *,
        kv_pool: TokenToKVPool,
        req_to_token_pool: ReqToTokenPool,
        seed: int = 0,
        vocab_size: int = VOCAB_SIZE,
    ) -> None:
        self._kv_pool = kv_pool
        self._req_to_token_pool = req_to_token_pool
        self._vocab_size = vocab_size
        context_len = req_to_token_pool.max_context_len
        weights = HashWeights.from_seed(seed)
        self._seed = seed
        self._offsets_reqs: list[Req] = []
        # NumPy wraps silently in arrays but warns about scalars, so even constants are arrays.
        self._chain_in = _words(weights.chain_in)
        self._chain_offset = _words(weights.chain_offset)
        self._output_offset = _words(weights.output_offset)
        self._current_offsets: WordArray = self._output_offset
        self._columns: IntArray = np.arange(context_len, dtype=np.int64)
        position_mul = _mix64(
            _words(weights.position_seed)
            + (self._columns + 1).astype(np.uint64) * _words(GOLDEN_GAMMA)
        ) | _words(1)
        # One weight for each position and each of the two words of a slot.
        self._slot_weights: WordArray = position_mul[:, None] * _words(
            weights.slot_word, weights.slot_chain
        )
        # growth**0, growth**1, ... and their inverses: they turn the chain into a running sum.
        self._growth = _powers(weights.growth, context_len + 1)
        self._inverse_growth = _powers(pow(weights.growth, -1, 1 << 64), context_len + 1)

    @property
    def kv(self) -> TokenToKVPool:
        """Its KV storage: the pool itself."""
        return self._kv_pool

    @property
    def vocab_size(self) -> int:
        """Token ids are below it."""
        return self._vocab_size

    @property
    def eos_token_id(self) -> int:
        """The end-of-sequence token; it comes out as often as any other."""
        return EOS_TOKEN_ID

    @property
    def supports_logprobs(self) -> bool:
        """A hash has no probabilities."""
        return False

    @property
    def lora_names(self) -> frozenset[str]:
        """There are no weights to adapt."""
        return frozenset()

    def forward(self, batch: ScheduleBatch) -> BatchResult:
        """Compute a prepared batch."""
        sums = self._decode(batch) if batch.forward_mode.is_decode() else self._extend(batch)
        return BatchResult(self._next_tokens(sums, batch.reqs))

    def _decode(self, batch: ScheduleBatch) -> WordArray:
        words = self._kv_pool.words
        seq_lens = batch.seq_lens
        width = batch.max_seq_len
        slots = self._req_to_token_pool.req_to_token[batch.rows, :width]
        last = seq_lens - 1
        previous = slots[np.arange(len(last)), last - 1]
        word = (batch.input_ids + (last << 32)).view(np.uint64)
        chain = words[previous, 1] * self._growth[1:2] + word * self._chain_in + self._chain_offset
        words[batch.out_cache_loc, 0] = word
        words[batch.out_cache_loc, 1] = chain
        # What lies behind the end of a shorter context is read from the reserved page, which is zero.
        slots *= self._columns[:width] < seq_lens[:, None]
        context = words.take(slots, axis=0)
        context *= self._slot_weights[:width]
        sums: WordArray = context.reshape(len(slots), -1).sum(axis=1)
        return sums

    def _extend(self, batch: ScheduleBatch) -> WordArray:
        words = self._kv_pool.words
        table = self._req_to_token_pool.req_to_token
        sums = np.empty(len(batch.reqs), dtype=np.uint64)
        offset = 0
        for i, (row, start, length) in enumerate(
            zip(batch.rows.tolist(), batch.prefix_lens, batch.extend_lens, strict=True)
        ):
            end = start + length
            here = slice(offset, offset + length)
            offset += length
            word = (batch.input_ids[here] + (self._columns[start:end] << 32)).view(np.uint64)
            # chain[start+k] = growth**(k+1) * (chain[start-1] + sum_{j<=k} added[j] / growth**(j+1))
            added = (word * self._chain_in + self._chain_offset) * self._inverse_growth[
                1 : length + 1
            ]
            chain = np.cumsum(added, dtype=np.uint64)
            if start:
                chain += words[table[row, start - 1 : start], 1]
            chain *= self._growth[1 : length + 1]
            locs = batch.out_cache_loc[here]
            words[locs, 0] = word
            words[locs, 1] = chain
            context = words.take(table[row, :end], axis=0)
            context *= self._slot_weights[:end]
            sums[i] = context.sum()
        return sums

    def _next_tokens(self, sums: WordArray, reqs: list[Req]) -> IntArray:
        mixed = _mix64(sums + self._offsets(reqs))
        return (mixed % np.uint64(self._vocab_size)).view(np.int64)

    def _offsets(self, reqs: list[Req]) -> WordArray:
        """Return the output offset of each request, or the one of all when nobody samples."""
        # A batch decodes many times with the list of requests it was made with.
        if reqs is not self._offsets_reqs:
            self._offsets_reqs = reqs
            sampled = any(not is_greedy(req.sampling_params.temperature) for req in reqs)
            self._current_offsets = (
                _words(*map(self._offset_of, reqs)) if sampled else self._output_offset
            )
        return self._current_offsets

    def _offset_of(self, req: Req) -> int:
        params = req.sampling_params
        if is_greedy(params.temperature):
            return int(self._output_offset[0])
        return sampling_offset(self._seed if params.seed is None else params.seed)


def _words(*values: int) -> WordArray:
    return np.array([value & MASK_64 for value in values], dtype=np.uint64)


def _powers(base: int, count: int) -> WordArray:
    factors = np.full(count, base, dtype=np.uint64)
    factors[0] = 1
    return np.cumprod(factors, dtype=np.uint64)


def _mix64(values: WordArray) -> WordArray:
    values = (values ^ (values >> np.uint64(30))) * np.uint64(MIX_1)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(MIX_2)
    return values ^ (values >> np.uint64(31))
