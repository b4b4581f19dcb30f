"""Faults of overlap scheduling: results that are processed one iteration late."""

from __future__ import annotations

from collections.abc import Mapping
from collections.abc import Set as AbstractSet

import numpy as np

from scripted_reference.control import Control
from scripted_reference.faults.fault import Area, seeded
from scripted_reference.in_flight import NOTHING_DISCARDED, InFlight
from scripted_reference.models.base import BatchResult
from scripted_reference.request import Req
from scripted_reference.results import ResultProcessor
from scripted_reference.schedule_batch import ScheduleBatch
from scripted_reference.scheduler import Scheduler

_HERE = Area.OVERLAP


@seeded(
    "finish-processed-twice",
    _HERE,
    stands_for="the batch that was launched before the end of one of its requests was known",
)
class FinishProcessedTwice(ResultProcessor):
    """The result of the batch after a request's last one ends it again."""

    def process(
        self,
        batch: ScheduleBatch,
        result: BatchResult,
        *,
        discarded: AbstractSet[Req] = NOTHING_DISCARDED,
    ) -> None:
        """Pass over the retracted ones only."""
        discarded = {req for req in discarded if not req.finished()}
        super().process(batch, result, discarded=discarded)


@seeded(
    "retracted-result-counts",
    _HERE,
    stands_for="a token in flight of a request that has given its memory back",
)
class RetractedResultCounts(InFlight):
    """The result in flight of a request that was retracted is processed all the same."""

    def discard(self, req: Req) -> None:
        """Discard for finished requests only."""
        if req.finished():
            super().discard(req)


@seeded(
    "results-dropped-at-continue",
    _HERE,
    stands_for="a result queue that a pause or continue clears",
)
class ResultsDroppedAtContinue(Control):
    """What was in flight when the engine was paused in place is never processed."""

    def resume(self) -> None:
        """Throw the results away."""
        while len(self._scheduler.in_flight):
            self._scheduler.in_flight.pop()
        super().resume()


@seeded(
    "results-processed-while-paused",
    _HERE,
    stands_for="a pause that stops scheduling and not the processing of results",
)
class ResultsProcessedWhilePaused(Scheduler):
    """A request's output grows, or ends, during a pause in place."""

    def on_no_batch(self) -> None:
        """Process whatever there is."""
        self.process_in_flight()
        super().on_no_batch()


@seeded(
    "tokens-of-a-neighbour",
    _HERE,
    stands_for="requests that are filtered from a batch whose tokens are not",
)
class TokensOfANeighbour(ResultProcessor):
    """When a request left the batch in between, those behind it get each other's tokens."""

    def process_decode(
        self, batch: ScheduleBatch, result: BatchResult, discarded: AbstractSet[Req]
    ) -> None:
        """Filter the requests only."""
        kept = ScheduleBatch(
            [req for req in batch.reqs if req not in discarded], batch.forward_mode
        )
        tokens = result.next_token_ids[: len(kept.reqs)]
        super().process_decode(kept, result._replace(next_token_ids=tokens), NOTHING_DISCARDED)


@seeded(
    "token-in-flight-not-fed",
    _HERE,
    stands_for="the map from requests to tokens that are not on the host yet",
)
class TokenInFlightNotFed(InFlight):
    """A decode begins with the last token that was processed, not with the one in flight."""

    def newest_tokens(self) -> dict[Req, int]:
        """Return the last token that is known."""
        newest = super().newest_tokens()
        return {req: req.output_ids[-1] if req.output_ids else 0 for req in newest}


@seeded(
    "position-from-processed-output",
    _HERE,
    stands_for="a sequence length counted from output tokens that are one iteration late",
)
class PositionFromProcessedOutput(ScheduleBatch):
    """The first decode after a change of the batch computes its positions from processed output."""

    __slots__ = ()

    def index_for_decode(self, *, unprocessed: Mapping[Req, int]) -> None:
        """Count prompt and output."""
        super().index_for_decode(unprocessed=unprocessed)
        self.seq_lens = np.array([req.seq_len - 1 for req in self.reqs], dtype=np.int64)
        self.max_seq_len = int(self.seq_lens.max())


@seeded(
    "kv-of-last-token-kept",
    _HERE,
    stands_for="a token that is fed back after the request has ended: `kv_committed_len`",
)
class KvOfLastTokenKept(ResultProcessor):
    """What a batch wrote for a request after its last token goes into the prefix tree."""

    def end_finished(self, ended: list[Req]) -> None:
        """Keep all that was written."""
        scheduler = self._scheduler
        scheduler.set_running([req for req in scheduler.running_batch.reqs if not req.finished()])
        for req in ended:
            scheduler.departures.end(req)


@seeded(
    "flush-while-in-flight",
    _HERE,
    stands_for="an idle check that knows no results in flight",
)
class FlushWhileInFlight(Scheduler):
    """A flush is done while the model still writes for a request that has ended."""

    def can_flush(self) -> bool:
        """Look at requests only."""
        return self.is_idle and not self.tree_cache.protected_size()
