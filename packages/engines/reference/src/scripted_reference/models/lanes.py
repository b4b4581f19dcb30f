"""A batch laid out in lanes: the transformer computes exactly `LANES` tokens at a time.

Matrix products and reductions choose their algorithm, and with it the order of their additions, by the
shape of their operands: a row of a product of 3 rows differs in its last bits from the same row among
64. So no kernel here ever sees another number of tokens. Decoding requests, and the tokens of a prompt
one after the other, fill lanes; lanes that are left over compute a token that nobody reads. What a lane
computes depends on its own token and context only, and prefill and decode are one code path.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np

from scripted_reference.memory import IntArray
from scripted_reference.request import Req
from scripted_reference.schedule_batch import ScheduleBatch

LANES: Final = 8
"""Tokens computed together. A power of two; more would make small decode batches slower."""

SPARE: Final = -1
"""Stands for the slot, the row and the request of a lane that is spare."""


@dataclass(frozen=True, slots=True)
class Lanes:
    """Tokens to compute, in an order in which each finds its context computed before it.

    Attributes:
        tokens: `int64[n]`, the token ids.
        positions: `int64[n]`, their positions in their requests.
        rows: `int64[n]`, the rows of their requests; negative for a lane that is spare.
        locs: `int64[n]`, the slots to write to; `SPARE` for a lane that is.
        reqs: `int64[n]`, the batch index of each token's request; negative for a lane that is spare.
    """

    tokens: IntArray
    positions: IntArray
    rows: IntArray
    locs: IntArray
    reqs: IntArray

    def groups(self) -> Iterator[Lanes]:
        """Yield groups of exactly `LANES`, the last one filled up with spare lanes."""
        for start in range(0, len(self.tokens), LANES):
            part = slice(start, start + LANES)
            yield Lanes(
                _padded(self.tokens[part], 0),
                _padded(self.positions[part], 0),
                _padded(self.rows[part], SPARE),
                _padded(self.locs[part], SPARE),
                _padded(self.reqs[part], SPARE),
            )


@dataclass(frozen=True, slots=True)
class PromptPositions:
    """The prompt positions of one request whose log probabilities are wanted of a batch.

    Attributes:
        first: the first of them.
        lanes: for each the lane that predicts it, which is that of the position before; `None` for
            position 0, which nothing predicts.
    """

    first: int
    lanes: tuple[int | None, ...]


@dataclass(frozen=True, slots=True)
class BatchLayout:
    """A batch in lanes, and which of them have to be turned into logits.

    Attributes:
        output_lanes: `int64[batch]`, the lane that predicts each request's next token.
        prompts: by batch index, for the requests that ask for log probabilities of their prompt.
    """

    lanes: Lanes
    output_lanes: IntArray
    prompts: dict[int, PromptPositions]

    def logit_lanes(self) -> IntArray:
        """Return the lanes whose logits are needed: `int64[m]`, ascending."""
        if not self.prompts:
            return self.output_lanes
        asked = [
            lane for prompt in self.prompts.values() for lane in prompt.lanes if lane is not None
        ]
        return np.unique(np.concatenate((self.output_lanes, np.array(asked, dtype=np.int64))))


def lay_out(batch: ScheduleBatch) -> BatchLayout:
    """Return the lanes of a prepared batch."""
    count = len(batch.reqs)
    if batch.forward_mode.is_decode():
        every = np.arange(count)
        lanes = Lanes(batch.input_ids, batch.seq_lens - 1, batch.rows, batch.out_cache_loc, every)
        return BatchLayout(lanes, every, {})
    starts = np.array(batch.prefix_lens, dtype=np.int64)
    lengths = np.array(batch.extend_lens, dtype=np.int64)
    ends = np.cumsum(lengths)
    reqs = np.repeat(np.arange(count), lengths)
    positions = np.arange(len(reqs)) + np.repeat(starts - (ends - lengths), lengths)
    lanes = Lanes(batch.input_ids, positions, batch.rows[reqs], batch.out_cache_loc, reqs)
    offsets = (ends - lengths).tolist()
    prompts = {
        index: _prompt_positions(req, start=start, length=length, offset=offset)
        for index, (req, start, length, offset) in enumerate(
            zip(batch.reqs, batch.prefix_lens, batch.extend_lens, offsets, strict=True)
        )
        if req.return_logprob and req.logprob_start_len >= 0
    }
    return BatchLayout(lanes, ends - 1, prompts)


def _prompt_positions(req: Req, *, start: int, length: int, offset: int) -> PromptPositions:
    """Return what a request wants that computes `length` tokens from position `start` on.

    `offset` is the lane of the first of them. Each token tells of the position after its own.
    """
    first = max(req.logprob_start_len, start + 1 if start else 0)
    end = min(start + length + 1, len(req.origin_input_ids))
    return PromptPositions(
        first,
        tuple(
            offset + position - 1 - start if position else None for position in range(first, end)
        ),
    )


def _padded(values: IntArray, filler: int) -> IntArray:
    if len(values) == LANES:
        return values
    padded = np.full(LANES, filler, dtype=np.int64)
    padded[: len(values)] = values
    return padded
