"""The sliding-window layer of the `hash` model: every token reads its whole window back.

For a token at position `i` it stores, in the window slot beside the slot that the scheduler chose,

    record[i] = slot_word * word[i] + slot_chain * chain[i]           (the two of the full layer)
    state[i]  = growth * state[i-1] + offset
                + sum over o < window of omega[o] * stored_record[i-o]

with `state[i-1]` and every record of the window read back from the window pool through the mapping, and
`omega[o]` odd. What has no window slot any more reads as zero. The last token's `state`, read back and
weighed by an odd number, is added to the sum that the next token is made of. So a wrong record in any
slot of any token's window changes that token's state, and every later one, for certain.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from scripted_reference.hybrid_memory import WindowStorage
from scripted_reference.memory import IntArray
from scripted_reference.models.hash_arrays import WordArray, powers, words
from scripted_reference.models.hash_weights import WindowWeights
from scripted_reference.schedule_batch import ScheduleBatch


class WindowLayer:
    """The layer over one window storage, vectorized.

    `table` is `int64[rows, positions]`, the full slots of each request.
    """

    def __init__(self, weights: WindowWeights, *, storage: WindowStorage, table: IntArray) -> None:
        self._length = storage.length
        self._mapping = storage.mapping
        self._words = storage.kv_pool.words
        self._table = table
        self._slot_word = words(weights.slot_word)
        self._slot_chain = words(weights.slot_chain)
        self._offset = words(weights.offset)
        self._output = words(weights.output)
        count = table.shape[1] + 1
        self._growth = powers(weights.growth, count)
        self._inverse_growth = powers(pow(weights.growth, -1, 1 << 64), count)
        self._omega = words(*(weights.omega(o) for o in range(self._length)))
        self._omega_oldest_first = self._omega[::-1].copy()
        self._ago: IntArray = np.arange(self._length, dtype=np.int64)

    def decode(self, batch: ScheduleBatch, word: WordArray, chain: WordArray) -> WordArray:
        """Compute one token of each request; return what it adds to the sums, `uint64[batch]`."""
        stored = self._words
        loc = self._mapping[batch.out_cache_loc]
        stored[loc, 0] = self._record(word, chain)
        positions = (batch.seq_lens - 1)[:, None] - self._ago
        there = positions >= 0
        full = self._table[batch.rows[:, None], np.maximum(positions, 0)]
        slots = self._mapping[full] * there
        seen = (stored[slots, 0] * self._omega).sum(axis=1)
        before = stored[slots[:, 1], 1]
        stored[loc, 1] = before * self._growth[1:2] + seen + self._offset
        output: WordArray = stored[loc, 1] * self._output
        return output

    def extend(
        self, *, row: int, start: int, locs: IntArray, word: WordArray, chain: WordArray
    ) -> WordArray:
        """Compute the tokens of one request from position `start` on; return what the last one adds."""
        stored, reach = self._words, self._length - 1
        end = start + len(locs)
        first = max(start - reach, 0)
        slots = self._mapping[self._table[row, first:end]]
        own = self._mapping[locs]
        stored[own, 0] = self._record(word, chain)
        context = np.zeros(reach + len(locs), dtype=np.uint64)
        context[reach - (start - first) :] = stored[slots, 0]
        windows = np.lib.stride_tricks.sliding_window_view(context, self._length)
        seen = (windows * self._omega_oldest_first).sum(axis=1)
        # state[start+k] = growth**(k+1) * (state[start-1] + sum_{j<=k} added[j] / growth**(j+1))
        added = (seen + self._offset) * self._inverse_growth[1 : len(locs) + 1]
        state: npt.NDArray[np.uint64] = np.cumsum(added, dtype=np.uint64)
        if start:
            state += stored[slots[start - first - 1], 1]
        stored[own, 1] = state * self._growth[1 : len(locs) + 1]
        output: WordArray = stored[own[-1:], 1] * self._output
        return output

    def _record(self, word: WordArray, chain: WordArray) -> WordArray:
        return word * self._slot_word + chain * self._slot_chain
