"""What the rows of requests ought to hold: tokens and the hash of each prefix, known without any slot.

Tokens come from the requests themselves, or, one at a time while they decode, from what the forward
before has chosen. Slots are then compared with this and never with one another.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from scripted_core.kv_watch import KvBatch

from scripted_canary.arrays import Array, Arrays
from scripted_canary.hashing import SEED, ChainPowers, head_of, word_of


class RowTruth:
    """Tokens and chains of every row of one table.

    Attributes:
        heads: ``int64[rows, positions + 1]``, token and position packed.
        chains: ``int64[rows, positions + 2]``; the chain of position p is in column p + 1.
        columns: ``int64[positions + 1]``, 0, 1, 2, ...
        growth: ``int64[1]``, the factor of the chain.
        known: so many tokens of each row came from its request itself.
    """

    def __init__(self, *, rows: int, positions: int, arrays: Arrays) -> None:
        self._arrays = arrays
        self.heads = arrays.zeros(rows, positions + 1)
        self.chains = arrays.zeros(rows, positions + 2) + SEED
        self.columns = arrays.arange(positions + 1)
        self._powers = ChainPowers(positions + 1, arrays=arrays)
        self.growth = self._powers.growth[1:2]
        self._owners: list[Any] = [None] * rows
        self.known = [0] * rows
        self._last_requests: Sequence[Any] | None = None

    def learn(self, batch: KvBatch, rows: Sequence[int], starts: Sequence[int]) -> None:
        """Take in what the requests of a batch say of the tokens that they compute and read."""
        for index, (request, row, start) in enumerate(
            zip(batch.requests, rows, starts, strict=True)
        ):
            end = start + (1 if batch.counts is None else batch.counts[index])
            if self._owners[row] is not request:
                self._owners[row] = request
                self.known[row] = 0
            elif batch.counts is None and batch.next_known:
                continue  # it decodes, and the forward before has told what comes next
            known = self.known[row]
            if known < end:
                tokens = batch.tokens_of(index, known, end)
                self._write(row, known, tokens)
                known += len(tokens)
            # What the forward chooses goes to `end`, also behind a chunk that is not a prompt's last:
            # a request that was retracted and comes back to this row has to say it once more.
            self.known[row] = min(known, end)

    def is_same_decode(self, batch: KvBatch) -> bool:
        """Whether this batch has the requests of the last one, all of which only decode on."""
        same = batch.requests is self._last_requests
        self._last_requests = batch.requests if batch.counts is None and batch.next_known else None
        return same and self._last_requests is not None

    def assume(self, rows: Array, positions: Array, tokens: Array) -> None:
        """Go by what is fed where the requests do not know better: guesses to be verified.

        ``positions`` of the same row have to follow one another in order.
        """
        for row in sorted(set(rows.tolist())):
            mine = rows == row
            self._write(row, int(positions[mine][0]), tokens[mine])

    def chosen(self, rows: Array, ends: Array, tokens: Array, *, behind: Array) -> None:
        """A forward has chosen the token at position ``ends`` of each row, ``behind`` these chains."""
        heads = head_of(tokens, ends)
        self.heads[rows, ends] = heads
        self.chains[rows, ends + _ONE] = behind * self.growth + word_of(heads)

    def _write(self, row: int, start: int, tokens: Sequence[int] | Array) -> None:
        if not len(tokens):
            return
        end = start + len(tokens)
        values = self._arrays.whole(tokens)
        heads = head_of(values, self.columns[start:end])
        self.heads[row, start:end] = heads
        self.chains[row, start + 1 : end + 1] = self._powers.run(
            self.chains[row, start : start + 1], word_of(heads)
        )


_ONE: Final = np.int64(1)
