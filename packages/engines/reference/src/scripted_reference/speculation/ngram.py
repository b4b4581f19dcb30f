"""Guesses without a draft model: what followed the same tokens before.

Prompt-lookup decoding (Saxena, 2023), with SGLang's name `NGRAM`. The tokens at the end of a request are
looked up in the request itself and in the last ones that have ended; what came behind the longest match
is the guess. A match that reaches the end goes on from what it has just guessed, as in LZ77.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import Final

import numpy as np

from scripted_reference.memory import IntArray
from scripted_reference.models.base import Model
from scripted_reference.request import Req
from scripted_reference.speculation.model import VerifyBatch, VerifyingModel

REMEMBERED_REQUESTS: Final = 8


class NgramModel(VerifyingModel):
    """Guesses what followed the longest n-gram that a request ends with, wherever it was last seen."""

    def __init__(self, *, target: Model, longest: int) -> None:
        """`longest` is how many tokens an n-gram has at most."""
        super().__init__(target=target)
        self._longest = longest
        self._ended: deque[IntArray] = deque(maxlen=REMEMBERED_REQUESTS)

    def guessable(self, tokens: Iterable[int], most: int) -> int:
        """Return `most`, or 0 when the last token was never seen before."""
        own = np.fromiter(tokens, dtype=np.int64)
        return most if most and self._source(own) is not None else 0

    def guess(self, batch: VerifyBatch) -> list[IntArray]:
        """Return for each request its newest token and what followed it the time before."""
        return [
            np.array([newest, *self._behind(batch.tokens_of(i), length)], dtype=np.int64)
            for i, (newest, length) in enumerate(
                zip(batch.input_ids.tolist(), batch.draft_lens, strict=True)
            )
        ]

    def remember(self, req: Req) -> None:
        """Look also here from now on, in place of the oldest."""
        self._ended.append(np.array([*req.origin_input_ids, *req.output_ids], dtype=np.int64))

    def forget(self) -> None:
        """Look in the request itself only."""
        self._ended.clear()

    def _behind(self, tokens: list[int], length: int) -> list[int]:
        own = np.array(tokens, dtype=np.int64)
        source = self._source(own) if length else None
        if source is None:
            return []
        sequence, start = source
        guesses: list[int] = sequence[start : start + length].tolist()
        while len(guesses) < length:  # to its end and on, from where the guess began
            guesses += guesses[: length - len(guesses)]
        return guesses

    def _source(self, own: IntArray) -> tuple[IntArray, int] | None:
        """Return in which sequence, and from where on, the guess is; itself first, then the latest."""
        best, found = 0, None
        for sequence in (own, *reversed(self._ended)):
            length, start = _longest_match(sequence, own, self._longest)
            if length > best:
                best, found = length, (sequence, start)
        return found


def _longest_match(sequence: IntArray, end: IntArray, longest: int) -> tuple[int, int]:
    """Return how many of the last tokens of `end` were seen in `sequence`, and what position follows.

    Of equally long matches it is the last one. 0 when not even the last token was seen.
    """
    places = np.flatnonzero(sequence[:-1] == end[-1])
    length = 0
    while len(places):
        length, start = length + 1, int(places[-1]) + 1
        if length == min(longest, len(end)):
            break
        places = places[places >= length]
        places = places[sequence[places - length] == end[-1 - length]]
    return (length, start) if length else (0, 0)
