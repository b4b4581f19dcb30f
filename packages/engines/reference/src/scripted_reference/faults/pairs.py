"""Faults of prefill/decode pairs: KV that does not arrive, arrives wrong, or at somebody else's."""

from __future__ import annotations

from collections.abc import Set as AbstractSet

from scripted_reference.faults.fault import Area, seeded
from scripted_reference.models.base import BatchResult
from scripted_reference.pd.decode import DecodeDepartures, DecodeScheduler, RetractedKv
from scripted_reference.pd.engine import PdEngine
from scripted_reference.pd.prefill import PrefillDepartures, PrefillResults, PrefillScheduler
from scripted_reference.pd.rooms import FirstToken, Room, Rooms, RoomState
from scripted_reference.pd.transfer import KvChunk, KvTransfer
from scripted_reference.request import Req
from scripted_reference.schedule_batch import ScheduleBatch

_HERE = Area.PAIR


@seeded(
    "transfer-refuses-nothing",
    _HERE,
    stands_for="a write into remote slots that are another request's by now",
)
class TransferRefusesNothing(KvTransfer):
    """KV is written wherever its request had its slots, also twice and after the end."""

    def refusal(self, chunk: KvChunk) -> str | None:
        """Find nothing wrong."""
        return None


@seeded(
    "stale-chunk-taken",
    _HERE,
    stands_for="a transfer that is told apart by its request and not by its attempt",
)
class StaleChunkTaken(KvTransfer):
    """A chunk from before a retraction of the prefill engine counts as one of the new attempt."""

    def refusal(self, chunk: KvChunk) -> str | None:
        """Ask whether the request is there and waits."""
        room = chunk.room
        if self._rooms.get(room.rid) is not room or room.state is not RoomState.READY:
            return "nobody waits for it"
        return None


@seeded(
    "lost-chunk-never-noticed",
    _HERE,
    stands_for="a transfer without a timeout of its own",
)
class LostChunkNeverNoticed(KvTransfer):
    """A request whose KV was lost on the way waits for it for ever."""

    def _fail_starved(self) -> None:
        return


class _CompleteWithLastChunk(Room):
    __slots__ = ()

    def receive(self, start: int, end: int, first: FirstToken | None) -> None:
        """Take the first token for the end of the transfer."""
        self.arrived[start:end] = True
        if first is not None:
            self.first = first
            self.state = RoomState.COMPLETE


@seeded(
    "complete-with-the-last-chunk",
    _HERE,
    stands_for="a success that is reported with the auxiliary data, which overtakes the KV",
)
class CompleteWithTheLastChunk(Rooms):
    """A request begins to decode when its last chunk is there, although others are on their way."""

    def open(self, rid: str, *, prompt_len: int, number: int | None = None) -> Room:
        """Open one that is easily content."""
        room = super().open(rid, prompt_len=prompt_len, number=number)
        room.__class__ = _CompleteWithLastChunk
        return room


@seeded(
    "sent-part-not-sent-again",
    _HERE,
    stands_for="the offset of a transfer that survives the retraction of what it counts",
)
class SentPartNotSentAgain(PrefillDepartures):
    """What the prefill engine had sent before it was retracted is not sent with the new attempt."""

    def requeue(self, req: Req) -> None:
        """Queue it without telling its room."""
        super(PrefillDepartures, self).requeue(req)


@seeded(
    "prompt-let-go-when-sent",
    _HERE,
    stands_for="memory that is given back when a transfer is posted, not when it is done",
)
class PromptLetGoWhenSent(PrefillScheduler):
    """A prompt's KV may be evicted, and its slots be another's, while it is being read."""

    def let_go_of_the_arrived(self) -> None:
        """Let go of all."""
        for req in list(self.disagg_prefill_inflight_queue):
            self.disagg_prefill_inflight_queue.remove(req)
            self.departures.end(req)


@seeded(
    "cached-part-not-sent",
    _HERE,
    stands_for="a transfer of what was computed, of a prompt whose beginning was cached",
)
class CachedPartNotSent(PrefillResults):
    """The part of a prompt that came out of the prefix tree is not sent."""

    def process_extend(
        self, batch: ScheduleBatch, result: BatchResult, discarded: AbstractSet[Req]
    ) -> None:
        """Pass over what was not computed."""
        for req, start in zip(batch.reqs, batch.prefix_lens, strict=True):
            room = self._scheduler.rooms.get(req.rid)
            if room is not None:
                room.sent_len = max(room.sent_len, start)
        super().process_extend(batch, result, discarded)


@seeded(
    "retracted-kv-one-short",
    _HERE,
    stands_for="a copy of a retracted request's KV that forgets the token computed last",
)
class RetractedKvOneShort(DecodeDepartures):
    """The KV of a request that gives way is copied out without its last token."""

    def requeue(self, req: Req) -> None:
        """Copy one less."""
        scheduler = self._scheduler
        length = req.seq_len - 2
        contents = scheduler.model.kv.read(scheduler.slots_of(req)[:length])
        self._release(req, keep=False)
        req.retraction_count += 1
        scheduler.disagg_decode_retracted_queue.append(RetractedKv(req, contents, length))


@seeded(
    "retracted-kv-not-copied-back",
    _HERE,
    stands_for="a resumption that finds the old contents in its slots only if nobody had them since",
)
class RetractedKvNotCopiedBack(DecodeScheduler):
    """A request that gave way gets slots again, and not its KV."""

    def resume_retracted(self) -> None:
        """Hand out slots."""
        while self.disagg_decode_retracted_queue:
            req, _, length, _ = self.disagg_decode_retracted_queue[0]
            if not self.take_memory(req, length):
                return
            del self.disagg_decode_retracted_queue[0]
            self.set_running([*self.running_batch.reqs, req])


@seeded(
    "other-engine-not-told",
    _HERE,
    stands_for="an abort that reaches one engine of a pair",
)
class OtherEngineNotTold(PdEngine):
    """A request that has failed or ended in one engine lives on in the other."""

    def settle_rooms(self) -> None:
        """Close what the decode engine is done with."""
        for room in self.rooms:
            if room.rid not in self.requests:
                self.rooms.close(room.rid)


@seeded(
    "kv-written-one-slot-on",
    _HERE,
    stands_for="an index into one pool that is computed for the page of the other",
)
class KvWrittenOneSlotOn(PdEngine):
    """A later chunk's KV is rotated by one slot within its chunk."""

    def _copy_kv(self, chunk: KvChunk) -> None:
        super()._copy_kv(chunk)
        if chunk.start:
            req = self.decode.requests[chunk.room.rid]
            slots = self.decode.slots_of(req)[chunk.start : chunk.end]
            kv = self.decode.model.kv
            kv.write(slots[[*range(1, len(slots)), 0]], kv.read(slots))
