"""The KV transfer of a pair, as an actor that a script can interfere with.

A chunk names positions, not slots: like a remote read, it takes what the prefill engine has there when
it is delivered, and puts it where the decode engine wants it then. What comes twice, after the prefill
engine started over, or for a request that has ended, is refused: its slots may belong to another by now.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

import numpy.typing as npt
from scripted_core.errors import ConfigError
from scripted_core.kv_watch import SentSlots
from scripted_core.ops import Transfer, TransferAction
from scripted_core.views import KvChunkView

from scripted_reference.pd.rooms import FirstToken, Room, Rooms, RoomState

_REJECTIONS_KEPT: Final = 64


class KvSender(Protocol):
    """What a prefill engine hands the KV of its requests to."""

    def send(self, room: Room, *, end: int, first: FirstToken | None) -> None:
        """A prompt is computed up to `end`: send what was not sent yet."""


@dataclass(eq=False, slots=True)
class KvChunk:
    """Positions `start` up to `end` of one request, on their way.

    Between two processes it has its `contents` with it, and what a watcher knows of them; within one
    both are read when it is delivered.
    """

    number: int
    room: Room
    attempt: int
    start: int
    end: int
    first: FirstToken | None
    delay: int = 0
    contents: npt.NDArray[Any] | None = None
    watched: SentSlots | None = None

    def view(self) -> KvChunkView:
        """Return it as scripts see it."""
        return KvChunkView(
            number=self.number,
            rid=self.room.rid,
            start=self.start,
            end=self.end,
            is_last=self.first is not None,
            delay_iterations=self.delay,
        )


class KvTransfer:
    """Moves the chunks that are due, once in an iteration, in the order in which they were sent.

    Attributes:
        pending: chunks that are neither delivered nor lost.
        is_held: whether only stepped chunks are delivered.
        delivered: chunks taken by the decode engine.
        rejected: why the last chunks that were refused were.
    """

    def __init__(
        self,
        *,
        rooms: Rooms,
        copy: Callable[[KvChunk], None],
        timeout_iterations: int,
    ) -> None:
        """`copy(chunk)` puts the KV of its positions into the decode engine's pool."""
        self._rooms = rooms
        self._copy = copy
        self._timeout_iterations = timeout_iterations
        self._numbers = 0
        self._steps = 0
        self._starved: dict[Room, int] = {}
        self.pending: list[KvChunk] = []
        self.is_held = False
        self.delivered = 0
        self.rejected: deque[str] = deque(maxlen=_REJECTIONS_KEPT)

    @property
    def waits_for_script(self) -> bool:
        """Whether it is held, or a chunk is delayed."""
        return self.is_held or any(chunk.delay for chunk in self.pending)

    def send(self, room: Room, *, end: int, first: FirstToken | None) -> None:
        """The prefill engine has computed a prompt up to `end`: send what was not sent yet."""
        self.take_in(room, attempt=room.attempt, start=room.sent_len, end=end, first=first)
        room.sent_len = end

    def take_in(
        self,
        room: Room,
        *,
        attempt: int,
        start: int,
        end: int,
        first: FirstToken | None,
        contents: npt.NDArray[Any] | None = None,
        watched: SentSlots | None = None,
    ) -> None:
        """A chunk is on its way from now on."""
        self._numbers += 1
        chunk = KvChunk(self._numbers, room, attempt, start, end, first)
        chunk.contents, chunk.watched = contents, watched
        self.pending.append(chunk)
        if attempt == room.attempt:
            room.has_sent_all = room.has_sent_all or first is not None

    def run(self) -> None:
        """Deliver what is due, and fail the rooms for which nothing is on its way any more."""
        due = [chunk for chunk in self.pending if chunk.delay == 0]
        for chunk in self.pending:
            chunk.delay = max(chunk.delay - 1, 0)
        if self.is_held:
            due, self._steps = due[: self._steps], 0
        for chunk in due:
            self.pending.remove(chunk)
            self.deliver(chunk)
        self._fail_starved()

    def deliver(self, chunk: KvChunk) -> None:
        """Copy one chunk, unless nobody waits for it; one that cannot be taken fails its request."""
        refusal = self.refusal(chunk)
        if refusal is not None:
            self.rejected.append(
                f"chunk {chunk.number} of {chunk.room.rid!r}, positions {chunk.start} to "
                f"{chunk.end}: {refusal}"
            )
            return
        try:
            self._copy(chunk)
        except ConfigError as error:
            chunk.room.fail(f"KV transfer failed: {error}")
            return
        chunk.room.receive(chunk.start, chunk.end, chunk.first)
        self.delivered += 1

    def refusal(self, chunk: KvChunk) -> str | None:
        """Return why a chunk is refused, or `None` if it is not."""
        room = chunk.room
        if self._rooms.get(room.rid) is not room:
            return "its request has ended"
        if chunk.attempt != room.attempt:
            return "the prefill engine has started over since"
        if room.state is RoomState.COMPLETE:
            return "all of its request has arrived"
        if room.state is not RoomState.READY:
            return "its request has failed"
        if room.arrived[chunk.start : chunk.end].all():
            return "it has arrived before"
        return None

    def apply(self, op: Transfer) -> None:
        """Do what a script asks for; a chunk that is not pending any more is passed over."""
        chosen = [chunk for number in op.chunks for chunk in self.pending if chunk.number == number]
        match op.action:
            case TransferAction.HOLD:
                self.is_held = True
            case TransferAction.RESUME:
                self.is_held = False
            case TransferAction.STEP:
                self._steps += op.count
            case TransferAction.DELAY:
                for chunk in chosen:
                    chunk.delay += op.count
            case TransferAction.REORDER:
                self._reorder(chosen)
            case TransferAction.DROP:
                for chunk in chosen:
                    self.pending.remove(chunk)
            case TransferAction.DUPLICATE:
                for chunk in chosen:
                    self._duplicate(chunk, later=op.count)

    def release_controls(self) -> None:
        """Forget what a script has asked for, and what is still on its way."""
        self.is_held = False
        self._steps = 0
        self._numbers = 0
        self.delivered = 0
        self.pending.clear()
        self.rejected.clear()

    def _reorder(self, chunks: Sequence[KvChunk]) -> None:
        places = sorted(self.pending.index(chunk) for chunk in chunks)
        for place, chunk in zip(places, chunks, strict=True):
            self.pending[place] = chunk

    def _duplicate(self, chunk: KvChunk, *, later: int) -> None:
        self._numbers += 1
        twin = KvChunk(
            self._numbers,
            chunk.room,
            chunk.attempt,
            chunk.start,
            chunk.end,
            chunk.first,
            chunk.delay + later,
            chunk.contents,
            chunk.watched,
        )
        self.pending.insert(self.pending.index(chunk) + 1, twin)

    def _fail_starved(self) -> None:
        """Count how long a room has been waiting with nothing on its way; fail it at the limit."""
        on_their_way = {chunk.room for chunk in self.pending if chunk.attempt == chunk.room.attempt}
        starved: dict[Room, int] = {}
        for room in self._rooms:
            if room.state is RoomState.READY and room.has_sent_all and room not in on_their_way:
                starved[room] = self._starved.get(room, 0) + 1
                if starved[room] >= self._timeout_iterations:
                    missing = int((~room.arrived).sum())
                    room.fail(
                        f"KV transfer failed: {missing} of {room.prompt_len} positions did not "
                        f"arrive within {self._timeout_iterations} iterations"
                    )
        self._starved = starved
