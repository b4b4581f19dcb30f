"""What a forward makes of many slots at once: the four bulk operations of a canary.

Here they are made of array operations, which is as fast as it gets in host memory. On a GPU each of
those is a kernel of its own, and ``triton_work`` makes one or a few of each bulk operation.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Protocol

import numpy as np
from scripted_core.kv_watch import KvBatch

from scripted_canary.arrays import Array, Arrays, Flag
from scripted_canary.hashing import head_of
from scripted_canary.shadow import SlotShadow
from scripted_canary.truth import RowTruth


@dataclass(kw_only=True, slots=True)
class Tokens:
    """The tokens that a forward is fed: of each request its row and start, of each token all the rest.

    Attributes:
        rows, starts: ``int64[batch]``.
        of, positions: ``int64[tokens]``, row and position.
        ids: ``int64[tokens]``.
        slots: ``int64[tokens]``, the full slot that the KV of each goes to.
    """

    rows: Array
    starts: Array
    of: Array
    positions: Array
    ids: Array
    slots: Array


@dataclass(kw_only=True, slots=True)
class Fed:
    """What was looked up of the tokens that a forward is fed, ``[tokens]`` each.

    Attributes:
        tokens: what they are.
        heads: ``int64``, each packed with its position.
        expected: ``int64``, what belongs there, packed.
        table_slots: the slot that the table names.
        wrong_tokens, wrong_places: ``bool``, what differs.
        known: ``int64``, the chain at each, once it is recorded and where that has been of use.
    """

    tokens: Tokens
    heads: Array
    expected: Array
    table_slots: Array
    wrong_tokens: Array
    wrong_places: Array
    known: Array = None


@dataclass(kw_only=True, slots=True)
class Reads:
    """What was found in the slots that a forward reads, ``[requests * longest]`` each.

    Attributes:
        wrong: ``bool``, what differs from what the request needs there.
        slots: ``int64``, slots of the pool itself.
        expected: ``int64``, the chain of what each should have been written for.
        sums, hashes: ``int64``, what was kept of each, and the hash of its bytes.
    """

    wrong: Array
    slots: Array
    expected: Array
    sums: Array
    hashes: Array | None


class ForwardWork(Protocol):
    """The bulk operations, over the rows of one table.

    Attributes:
        verified: how many slots were verified; on a device it stays there, since to read it after each
            forward would wait for that forward.
    """

    verified: Array

    def look_up(self, tokens: Tokens) -> Fed:
        """Compare what a forward is fed, and where it goes, with the requests and the table."""
        ...

    def read(self, shadow: SlotShadow, tokens: Tokens, *, longest: int) -> Reads:
        """Compare the slots that a forward reads with what they were written for."""
        ...

    def record(self, shadows: Sequence[SlotShadow], fed: Fed) -> None:
        """Take in the slots that a forward has written."""
        ...

    def chosen(self, fed: Fed, counts: Array | None, next_ids: Array) -> None:
        """Take in the token that a forward has chosen for each request."""
        ...

    def flag(self, masks: Sequence[Array]) -> Flag:
        """Whether anything is wrong in these masks of the forward."""
        ...


class ArrayWork:
    """The bulk operations out of array operations."""

    def __init__(self, *, table: Array, truth: RowTruth, arrays: Arrays) -> None:
        self._table = table
        self._truth = truth
        self._arrays = arrays
        self.verified: Array = 0

    def look_up(self, tokens: Tokens) -> Fed:
        """Compare what is fed, and where it goes, with the requests and the table."""
        of, positions = tokens.of, tokens.positions
        heads, expected = head_of(tokens.ids, positions), self._truth.heads[of, positions]
        table_slots = self._table[of, positions]
        return Fed(
            tokens=tokens,
            heads=heads,
            expected=expected,
            table_slots=table_slots,
            wrong_tokens=expected != heads,
            wrong_places=table_slots != tokens.slots,
        )

    def read(self, shadow: SlotShadow, tokens: Tokens, *, longest: int) -> Reads:
        """Compare the slots that a forward reads with what they were written for."""
        arrays, truth, starts = self._arrays, self._truth, tokens.starts
        columns, column = truth.columns[:longest], starts[:, None]
        live, verified = columns < column, starts
        window = shadow.view.window
        if window is not None:
            live &= columns > column - window
            verified = starts.clip(max=window - 1)
        self.verified += arrays.total(verified)
        slots = shadow.own(arrays.block(self._table, tokens.rows, 0, longest))
        expected = arrays.block(truth.chains, tokens.rows, 1, longest + 1)
        sums, hashes = shadow.held(slots)
        wrong = (sums if hashes is None else sums - hashes) != expected
        wrong &= live.reshape(-1)
        return Reads(wrong=wrong, slots=slots, expected=expected, sums=sums, hashes=hashes)

    def record(self, shadows: Sequence[SlotShadow], fed: Fed) -> None:
        """Take in the slots that a forward has written."""
        tokens = fed.tokens
        known = fed.known = self._truth.chains[tokens.of, tokens.positions + _ONE]
        # The chain of what was fed, which differs from the true one where another token was fed.
        chains = known + (fed.heads - fed.expected)
        for shadow in shadows:
            shadow.record(tokens.slots, fed.heads, chains)

    def chosen(self, fed: Fed, counts: Array | None, next_ids: Array) -> None:
        """Take in the token that a forward has chosen for each request."""
        rows, starts, truth = fed.tokens.rows, fed.tokens.starts, self._truth
        if counts is None:
            truth.chosen(rows, starts + _ONE, next_ids, behind=fed.known)
        else:
            ends = starts + counts
            truth.chosen(rows, ends, next_ids, behind=truth.chains[rows, ends])

    def flag(self, masks: Sequence[Array]) -> Flag:
        """Whether anything is wrong."""
        return self._arrays.flag(masks)


_ONE: Final = np.int64(1)


def tokens_of(batch: KvBatch, *, rows: Array, starts: Array, arrays: Arrays) -> Tokens:
    """The tokens that a forward is fed, one after the other."""
    of, positions = rows, starts
    if batch.counts is not None:
        counts = arrays.whole(batch.counts)
        first = arrays.repeat(counts.cumsum(0) - counts, counts)
        of = arrays.repeat(rows, counts)
        positions = arrays.repeat(starts, counts) + arrays.arange(len(first)) - first
    return Tokens(
        rows=rows,
        starts=starts,
        of=of,
        positions=positions,
        ids=arrays.whole(batch.input_ids),
        slots=arrays.whole(batch.out_slots),
    )


def work_for(*, table: Array, truth: RowTruth, arrays: Arrays) -> ForwardWork:
    """The work where these arrays lie: by triton on a GPU that has it, else out of array operations."""
    if not arrays.is_immediate:
        from scripted_canary.triton_work import triton_work  # triton takes a while

        work = triton_work(table=table, truth=truth, arrays=arrays)
        if work is not None:
            return work
    return ArrayWork(table=table, truth=truth, arrays=arrays)
