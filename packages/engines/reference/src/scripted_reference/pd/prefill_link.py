"""The prefill server's end of the wire: decode servers connect to its bootstrap port."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt
import zmq
from scripted_core.errors import EngineStartError
from scripted_core.kv_watch import SentSlots

from scripted_reference.pd import wire
from scripted_reference.pd.rooms import FirstToken, Room, Rooms, RoomState

_KEPT: Final = 4096
"""Rooms of requests that have not arrived, or have ended, of which something is remembered."""


class Outgoing(NamedTuple):
    """The KV of some positions of a request, and what a watcher of the engine knows of it."""

    contents: npt.NDArray[Any]
    watched: SentSlots | None


class PrefillLink:
    """Sends KV as soon as it is computed; what decode servers say takes effect when it is received.

    `read(rid, start, end)` returns the KV of these positions of a request.
    """

    def __init__(
        self,
        context: zmq.Context[Any],
        *,
        host: str,
        port: int,
        rooms: Rooms,
        read: Callable[[str, int, int], Outgoing],
    ) -> None:
        self._rooms = rooms
        self._read = read
        self._by_number: dict[int, Room] = {}
        self._peers: dict[int, bytes] = {}
        self._attempts: dict[int, int] = {}
        self._early: dict[int, wire.ToPrefill] = {}
        self._gone: dict[int, str] = {}
        self.sent = 0
        self.received = 0
        self.socket = context.socket(zmq.ROUTER)
        self.socket.setsockopt(zmq.IPV6, ":" in host)
        for option in (zmq.SNDHWM, zmq.RCVHWM, zmq.LINGER):
            self.socket.setsockopt(option, 0)
        name = f"[{host}]" if ":" in host else host
        try:
            self.socket.bind(f"tcp://{name}:{port}")
        except zmq.ZMQError as error:
            raise EngineStartError(
                f"the bootstrap port {port} on {host} cannot be had: {error}",
                hint="choose another disaggregation_bootstrap_port, or end the server that has it",
            ) from error

    def open(self, rid: str, *, prompt_len: int, number: int) -> None:
        """A request has arrived, perhaps after what the decode server said of it."""
        room = self._rooms.open(rid, prompt_len=prompt_len, number=number)
        self._by_number[number] = room
        self._attempts[number] = 0
        early = self._early.pop(number, None)
        if early is not None:
            self._take(early)

    def close(self, room: Room, *, message: str | None = None) -> None:
        """The request has left this engine; `message` says why, if it had to."""
        if message is not None:
            self._remember(self._gone, room.number, message)
            self._tell(room.number, wire.Ended(room.number, message))
        self._rooms.close(room.rid)
        for by_number in (self._by_number, self._peers, self._attempts):
            by_number.pop(room.number, None)

    def tell_of_restarts(self) -> None:
        """Whatever was sent of a request that starts over is stale."""
        for number, room in self._by_number.items():
            if room.attempt != self._attempts[number]:
                self._attempts[number] = room.attempt
                self._tell(number, wire.StartedOver(number, room.attempt))

    def send(self, room: Room, *, end: int, first: FirstToken | None) -> None:
        """A prompt is computed up to `end`: send what was not sent yet."""
        self.tell_of_restarts()
        outgoing = self._read(room.rid, room.sent_len, end)
        contents = np.ascontiguousarray(outgoing.contents)
        chunk = wire.Chunk(
            room=room.number,
            attempt=room.attempt,
            start=room.sent_len,
            end=end,
            dtype=contents.dtype.str,
            shape=contents.shape,
            first=first,
            watched=outgoing.watched,
        )
        self._tell(room.number, chunk, contents.tobytes())
        room.sent_len = end
        room.has_sent_all = first is not None

    def receive(self) -> None:
        """Take what has come."""
        while self.socket.poll(0):
            self._receive_one()

    def await_received(self, count: int) -> None:
        """Wait until so many messages have come since the start."""
        while self.received < count:
            self._receive_one()

    def _receive_one(self) -> None:
        peer, *frames = self.socket.recv_multipart()
        self.received += 1
        try:
            message = wire.decode_for_prefill(frames[0])
        except (msgspec.DecodeError, IndexError):
            return  # whoever that is, it is no decode server of ours
        self._peers[message.room] = peer
        if message.room in self._by_number:
            self._take(message)
        elif message.room in self._gone:
            self._tell(message.room, wire.Ended(message.room, self._gone[message.room]))
            del self._peers[message.room]
        else:
            self._remember(self._early, message.room, message)

    def _take(self, message: wire.ToPrefill) -> None:
        room = self._by_number[message.room]
        match message:
            case wire.Ready() if room.state is RoomState.OPEN:
                room.state = RoomState.READY
            case wire.Taken() if room.state is RoomState.READY:
                room.state = RoomState.COMPLETE
            case wire.Ended(message=text) if room.state is not RoomState.COMPLETE:
                room.fail(text)

    def _tell(self, number: int, message: wire.ToDecode, *data: bytes) -> None:
        peer = self._peers.get(number)
        if peer is not None:  # otherwise nobody waits for it yet
            self.sent += 1
            self.socket.send_multipart([peer, wire.encode(message), *data])

    def _remember(self, among: dict[int, Any], number: int, what: object) -> None:
        among[number] = what
        if len(among) > _KEPT:
            oldest = next(iter(among))
            del among[oldest]
            if among is self._early:
                self._peers.pop(oldest, None)
