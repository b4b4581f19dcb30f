"""Batches that have run while their results are not processed yet."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from collections.abc import Set as AbstractSet
from typing import Final

from scripted_reference.models.base import BatchResult
from scripted_reference.request import Req
from scripted_reference.schedule_batch import ScheduleBatch

NOTHING_DISCARDED: Final[AbstractSet[Req]] = frozenset()


class BatchInFlight:
    """One batch, its result, and the requests that the result no longer counts for.

    Attributes:
        discarded: requests that lost their memory after the batch was scheduled. An ended one has no
            use for its token; a retracted one computes it again.
    """

    __slots__ = ("batch", "discarded", "result")

    def __init__(self, batch: ScheduleBatch, result: BatchResult) -> None:
        self.batch = batch
        self.result = result
        self.discarded: set[Req] = set()


class InFlight:
    """The batches in flight, oldest first: with overlap scheduling one at an iteration boundary."""

    def __init__(self) -> None:
        self._queue: deque[BatchInFlight] = deque()

    def __len__(self) -> int:
        return len(self._queue)

    def __iter__(self) -> Iterator[BatchInFlight]:
        return iter(self._queue)

    def push(self, batch: ScheduleBatch, result: BatchResult) -> None:
        """Add a batch that has just run."""
        self._queue.append(BatchInFlight(batch, result))

    def pop(self) -> BatchInFlight:
        """Take the oldest out, to process it."""
        return self._queue.popleft()

    def discard(self, req: Req) -> None:
        """Let no result in flight count for this request any more."""
        for flying in self._queue:
            flying.discarded.add(req)

    def newest_tokens(self) -> dict[Req, int]:
        """Return the newest token of each request that has one in flight."""
        return {
            req: token
            for flying in self._queue
            for req, token in zip(
                flying.batch.reqs, flying.result.next_token_ids.tolist(), strict=True
            )
            if req is not flying.batch.chunked_req and req not in flying.discarded
        }
