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

With a sliding window it has one layer more, `models/hash_window.py`, whose output is added to the sum.
"""

from __future__ import annotations

import numpy as np

from scripted_reference.hybrid_memory import WindowStorage
from scripted_reference.memory import IntArray, ReqToTokenPool, TokenToKVPool
from scripted_reference.models.base import BatchResult
from scripted_reference.models.hash_arrays import WordArray, mix64_array, powers, words
from scripted_reference.models.hash_weights import (
    EOS_TOKEN_ID,
    GOLDEN_GAMMA,
    VOCAB_SIZE,
    HashWeights,
    WindowWeights,
    sampling_offset,
)
from scripted_reference.models.hash_window import WindowLayer
from scripted_reference.models.temperature import is_greedy
from scripted_reference.request import Req
from scripted_reference.schedule_batch import ScheduleBatch


class HashModel:
    """The `hash` model over one KV pool, vectorized: a decode batch costs a few tens of µs."""

    def __init__(
        self,
        *,
        kv_pool: TokenToKVPool,
        req_to_token_pool: ReqToTokenPool,
        seed: int = 0,
        vocab_size: int = VOCAB_SIZE,
        window: WindowStorage | None = None,
    ) -> None:
        self._kv_pool = kv_pool
        self._req_to_token_pool = req_to_token_pool
        self._vocab_size = vocab_size
        self._vocab_words = np.uint64(vocab_size)
        context_len = req_to_token_pool.max_context_len
        weights = HashWeights.from_seed(seed)
        self._seed = seed
        self._offsets_reqs: list[Req] = []
        # NumPy wraps silently in arrays but warns about scalars, so even constants are arrays.
        self._chain_in = words(weights.chain_in)
        self._chain_offset = words(weights.chain_offset)
        self._output_offset = words(weights.output_offset)
        self._current_offsets: WordArray = self._output_offset
        self._columns: IntArray = np.arange(context_len, dtype=np.int64)
        position_mul = mix64_array(
            words(weights.position_seed)
            + (self._columns + 1).astype(np.uint64) * words(GOLDEN_GAMMA)
        ) | words(1)
        # One weight for each position and each of the two words of a slot.
        self._slot_weights: WordArray = position_mul[:, None] * words(
            weights.slot_word, weights.slot_chain
        )
        # growth**0, growth**1, ... and their inverses: they turn the chain into a running sum.
        self._growth = powers(weights.growth, context_len + 1)
        self._inverse_growth = powers(pow(weights.growth, -1, 1 << 64), context_len + 1)
        self._window = None
        if window is not None:
            self._window = WindowLayer(
                WindowWeights.from_seed(seed),
                storage=window,
                table=req_to_token_pool.req_to_token,
            )

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
        return BatchResult(self._next_tokens(self._sums(batch), batch.reqs))

    def _sums(self, batch: ScheduleBatch) -> WordArray:
        return self._decode(batch) if batch.forward_mode.is_decode() else self._extend(batch)

    def _decode(self, batch: ScheduleBatch) -> WordArray:
        stored = self._kv_pool.words
        seq_lens = batch.seq_lens
        width = batch.max_seq_len
        slots = self._req_to_token_pool.req_to_token[batch.rows, :width]
        last = seq_lens - 1
        previous = slots[np.arange(len(last)), last - 1]
        word = (batch.input_ids + (last << 32)).view(np.uint64)
        chain = stored[previous, 1] * self._growth[1:2] + word * self._chain_in + self._chain_offset
        stored[batch.out_cache_loc, 0] = word
        stored[batch.out_cache_loc, 1] = chain
        # What lies behind the end of a shorter context is read from the reserved page, which is zero.
        slots *= self._columns[:width] < seq_lens[:, None]
        context = stored.take(slots, axis=0)
        context *= self._slot_weights[:width]
        sums: WordArray = np.add.reduce(context.reshape(len(slots), -1), axis=1)
        if self._window is not None:
            sums += self._window.decode(batch, word, chain)
        return sums

    def _extend(self, batch: ScheduleBatch) -> WordArray:
        stored = self._kv_pool.words
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
                chain += stored[table[row, start - 1 : start], 1]
            chain *= self._growth[1 : length + 1]
            locs = batch.out_cache_loc[here]
            stored[locs, 0] = word
            stored[locs, 1] = chain
            context = stored.take(table[row, :end], axis=0)
            context *= self._slot_weights[:end]
            sums[i] = context.sum()
            if self._window is not None:
                sums[i : i + 1] += self._window.extend(
                    row=row, start=start, locs=locs, word=word, chain=chain
                )
        return sums

    def _next_tokens(self, sums: WordArray, reqs: list[Req]) -> IntArray:
        mixed = mix64_array(sums + self._offsets(reqs))
        return (mixed % self._vocab_words).view(np.int64)

    def _offsets(self, reqs: list[Req]) -> WordArray:
        """Return the output offset of each request, or the one of all when nobody samples."""
        # A batch decodes many times with the list of requests it was made with.
        if reqs is not self._offsets_reqs:
            self._offsets_reqs = reqs
            sampled = any(not is_greedy(req.sampling_params.temperature) for req in reqs)
            self._current_offsets = (
                words(*map(self._offset_of, reqs)) if sampled else self._output_offset
            )
        return self._current_offsets

    def _offset_of(self, req: Req) -> int:
        params = req.sampling_params
        if is_greedy(params.temperature):
            return int(self._output_offset[0])
        return sampling_offset(self._seed if params.seed is None else params.seed)
