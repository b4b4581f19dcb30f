"""Faults of what comes out: tokens, ends, streams and log probabilities."""

from __future__ import annotations

from collections.abc import Set as AbstractSet

from scripted_reference.batching import BatchBuilder
from scripted_reference.departures import Departures
from scripted_reference.faults.fault import Area, seeded
from scripted_reference.models.base import BatchResult
from scripted_reference.request import FinishKind, FinishReason, Req
from scripted_reference.results import ResultProcessor
from scripted_reference.schedule_batch import ScheduleBatch

_HERE = Area.OUTPUTS


@seeded(
    "retraction-loses-a-token",
    _HERE,
    stands_for="the last token of a retracted request, which has no KV yet",
)
class RetractionLosesAToken(Departures):
    """A retracted request forgets its last token, and computes it again."""

    def requeue(self, req: Req) -> None:
        """Forget the last token."""
        super().requeue(req)
        del req.output_ids[-1:]


@seeded(
    "retraction-repeats-a-token",
    _HERE,
    stands_for="the last token of a retracted request, noted down twice",
)
class RetractionRepeatsAToken(Departures):
    """A retracted request has its last token twice."""

    def requeue(self, req: Req) -> None:
        """Note the last token down twice."""
        super().requeue(req)
        req.output_ids.extend(req.output_ids[-1:])


@seeded(
    "output-folded-into-prompt",
    _HERE,
    stands_for="the retraction of early engines: the output so far becomes a part of the prompt",
)
class OutputFoldedIntoPrompt(Departures):
    """A retracted request begins a new output behind the old one."""

    def requeue(self, req: Req) -> None:
        """Make the output a part of the prompt."""
        super().requeue(req)
        req.origin_input_ids = [*req.origin_input_ids, *req.output_ids]
        req.output_ids = []


@seeded(
    "stream-repeats-after-retraction",
    _HERE,
    stands_for="a stream's offset that is set back when the request is",
)
class StreamRepeatsAfterRetraction(ResultProcessor):
    """The client of a retracted request gets a token twice; the engine's own list is right."""

    def take_token(self, req: Req, token: int) -> bool:
        """Stream the token once too often."""
        ended = super().take_token(req, token)
        if req.retraction_count and not ended:
            req.output_ids.append(token)
            self._scheduler.observer.on_output([req])
            del req.output_ids[-1]
        return ended


@seeded(
    "position-off-by-one-after-hit",
    _HERE,
    stands_for="positions counted from the length of the prefix",
)
class PositionOffByOneAfterHit(BatchBuilder):
    """What is computed behind a cached prefix is computed for the position after its own."""

    def next_prefill(self) -> ScheduleBatch | None:
        """Shift the beginning of what follows a hit."""
        batch = super().next_prefill()
        if batch is not None:
            batch.prefix_lens = [start + (start > 0) for start in batch.prefix_lens]
        return batch


@seeded(
    "one-token-too-many",
    _HERE,
    stands_for="`>` where `>=` was meant, in the length limit",
)
class OneTokenTooMany(ResultProcessor):
    """A request ends one token after its limit."""

    def take_token(self, req: Req, token: int) -> bool:
        """Move the limit for the length of the check."""
        req.max_new_tokens += 1
        ended = super().take_token(req, token)
        req.max_new_tokens -= 1
        return ended


@seeded(
    "first-token-never-last",
    _HERE,
    stands_for="the end of a request that is only looked for after a decode",
)
class FirstTokenNeverLast(ResultProcessor):
    """The token that a prefill gives is appended without asking whether the request ends with it."""

    def take_token(self, req: Req, token: int) -> bool:
        """Ask from the second token on."""
        if req.output_ids:
            return super().take_token(req, token)
        req.output_ids.append(token)
        return False


@seeded(
    "stop-ignored-after-retraction",
    _HERE,
    stands_for="sampling parameters that do not survive a way through the queue",
)
class StopIgnoredAfterRetraction(ResultProcessor):
    """A request that was retracted once runs on past its stop tokens."""

    def take_token(self, req: Req, token: int) -> bool:
        """Forget the stop tokens."""
        if req.retraction_count:
            req.stop_ids = frozenset()
        return super().take_token(req, token)


@seeded(
    "stop-reported-as-length",
    _HERE,
    stands_for="one field for two reasons to end",
)
class StopReportedAsLength(ResultProcessor):
    """A request that met its stop token is said to have reached its length."""

    def take_token(self, req: Req, token: int) -> bool:
        """Give the wrong reason."""
        ended = super().take_token(req, token)
        if ended:
            req.finished_reason = FinishReason(FinishKind.LENGTH)
        return ended


@seeded(
    "abort-of-waiting-not-reported",
    _HERE,
    stands_for="SGLang's separate message for an abort that never ran",
)
class AbortOfWaitingNotReported(Departures):
    """The client of a request that was aborted in the queue never hears of it."""

    def end(self, req: Req) -> None:
        """Say nothing if it never had memory."""
        if req.req_pool_idx is None:
            del self._scheduler.requests[req.rid]
        else:
            super().end(req)


@seeded(
    "logprob-lost-at-chunk-border",
    _HERE,
    stands_for="the position whose predecessor is in the chunk before",
    out_of_reach="the script for it asks for log probabilities, which take the model `tiny` and torch",
)
class LogprobLostAtChunkBorder(ResultProcessor):
    """The log probability of the first token of a later chunk is dropped."""

    def keep_logprobs(
        self, batch: ScheduleBatch, result: BatchResult, discarded: AbstractSet[Req]
    ) -> None:
        """Drop it where something was computed before."""
        assert result.logprobs is not None
        starts = batch.prefix_lens or [0] * len(batch.reqs)
        cut = tuple(
            one._replace(prompt=one.prompt[1:]) if one is not None and start else one
            for one, start in zip(result.logprobs, starts, strict=True)
        )
        super().keep_logprobs(batch, result._replace(logprobs=cut), discarded)
