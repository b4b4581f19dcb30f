"""Faults of speculation: guesses that are taken too easily, and what is left of those that are wrong."""

from __future__ import annotations

from scripted_reference.faults.fault import Area, seeded
from scripted_reference.memory import IntArray
from scripted_reference.models.base import BatchResult
from scripted_reference.request import Req
from scripted_reference.speculation.model import VerifyBatch
from scripted_reference.speculation.results import VerifiedResults
from scripted_reference.speculation.scheduler import SpeculativeScheduler, VerifyBatches

_HERE = Area.SPECULATION


@seeded(
    "guess-taken-unverified",
    _HERE,
    stands_for="an accepted length that is off by one",
)
class GuessTakenUnverified(VerifiedResults):
    """The first wrong guess is taken, too."""

    def accepted(self, batch: VerifyBatch, result: BatchResult) -> list[list[int]]:
        """Take the guess where the model says otherwise."""
        found, at = super().accepted(batch, result), 0
        fed = batch.input_ids.tolist()
        for tokens, length in zip(found, batch.draft_lens, strict=True):
            if len(tokens) <= length:
                tokens[-1] = fed[at + len(tokens)]
            at += length + 1
        return found


@seeded(
    "stop-in-a-guess-missed",
    _HERE,
    stands_for="an end that is looked for in the last token of an iteration only",
)
class StopInAGuessMissed(VerifiedResults):
    """A stop token that others follow in the same iteration does not end its request."""

    def take_token(self, req: Req, token: int) -> bool:
        """Look whether the length is reached."""
        req.output_ids.append(token)
        if len(req.output_ids) < req.max_new_tokens:
            return False
        req.finished_reason = req.finish_after(token)
        return True


@seeded(
    "slots-of-wrong-guesses-lost",
    _HERE,
    stands_for="slots that were taken for guesses, and belong to nobody when those are wrong",
)
class SlotsOfWrongGuessesLost(VerifiedResults):
    """What was taken for wrong guesses is forgotten, and not freed."""

    def give_back(self, req: Req) -> None:
        """Forget it."""
        page = self._scheduler.page_size
        req.kv_committed_len = req.seq_len - 1
        req.kv_allocated_len = min(req.kv_allocated_len, -(-req.kv_committed_len // page) * page)


@seeded(
    "newest-page-freed-with-guesses",
    _HERE,
    stands_for="a cut at a page that the accepted tokens still have a part of",
)
class NewestPageFreedWithGuesses(VerifiedResults):
    """With what was taken for guesses the slot of the last accepted token is freed."""

    def give_back(self, req: Req) -> None:
        """Cut one token too early."""
        had = req.kv_allocated_len
        super().give_back(req)
        if had > req.kv_allocated_len + 1:
            row = self._scheduler.req_to_token_pool.req_to_token[req.req_pool_idx]
            last = req.kv_committed_len - 1
            self._scheduler.token_to_kv_pool_allocator.free(row[last : last + 1])


@seeded(
    "accepted-tokens-not-waited-for",
    _HERE,
    stands_for="a sequence length of the host, which does not know yet how many guesses were right",
)
class AcceptedTokensNotWaitedFor(SpeculativeScheduler):
    """With overlap a verification goes on behind the first token that is in flight, not the last."""

    def unprocessed_outputs(self) -> dict[Req, list[int]]:
        """Return the first of each."""
        return {req: tokens[:1] for req, tokens in super().unprocessed_outputs().items()}


@seeded(
    "freed-while-it-is-verified",
    _HERE,
    stands_for="slots of guesses that are freed while the next batch writes to them",
)
class FreedWhileItIsVerified(VerifiedResults):
    """With overlap the slots of a batch in flight are freed with those of the one before."""

    def give_back(self, req: Req) -> None:
        """Do not ask whether anything is in flight."""
        row = self._scheduler.req_to_token_pool.req_to_token[req.req_pool_idx]
        req.kv_committed_len = committed = req.seq_len - 1
        page = self._scheduler.page_size
        whole = -(-committed // page) * page
        self._scheduler.token_to_kv_pool_allocator.free(row[whole : req.kv_allocated_len])
        req.kv_allocated_len = committed


@seeded(
    "guesses-in-each-other-s-slots",
    _HERE,
    stands_for="an index of draft slots that is not advanced with the accepted length",
)
class GuessesInEachOthersSlots(VerifyBatches):
    """The newest token and its last guess are written to each other's slots."""

    def _slots(self, req: Req, start: int, end: int) -> IntArray:
        slots = super()._slots(req, start, end)
        slots[[0, -1]] = slots[[-1, 0]]
        return slots
