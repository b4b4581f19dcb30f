"""The decode server's end of the wire: a connection to each prefill server that requests name."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import msgspec
import zmq
from zmq.utils.monitor import recv_monitor_message

from scripted_reference.bootstrap import Bootstrap
from scripted_reference.pd import wire
from scripted_reference.pd.rooms import Room, Rooms, RoomState
from scripted_reference.pd.transfer import KvTransfer


@dataclass(eq=False)
class _Peer:
    """A prefill server: the connection to it, what tells of the end of that, and its open rooms."""

    where: str
    socket: zmq.Socket[bytes]
    monitor: zmq.Socket[bytes]
    rooms: dict[int, Room] = field(default_factory=dict)
    told: dict[int, RoomState] = field(default_factory=dict)


class DecodeLink:
    """Hands what arrives to the transfer, and says where there is memory and what has arrived."""

    def __init__(self, context: zmq.Context[Any], *, rooms: Rooms) -> None:
        self._context = context
        self._rooms = rooms
        self._peers: dict[str, _Peer] = {}
        self._of_room: dict[int, _Peer] = {}
        self.sent = 0
        self.received = 0

    @property
    def sockets(self) -> tuple[zmq.Socket[bytes], ...]:
        """Where something may come."""
        return tuple(one for peer in self._peers.values() for one in (peer.socket, peer.monitor))

    def open(self, rid: str, *, prompt_len: int, bootstrap: Bootstrap) -> None:
        """A request has arrived."""
        room = self._rooms.open(rid, prompt_len=prompt_len, number=bootstrap.room)
        peer = self._peer(bootstrap)
        peer.rooms[room.number] = room
        self._of_room[room.number] = peer

    def close(self, room: Room, *, message: str | None = None) -> None:
        """The request has left this engine, or needs no KV any more; `message`: before it had it."""
        peer = self._of_room.pop(room.number)
        if message is not None:
            self._send(peer, wire.Ended(room.number, message))
        self._rooms.close(room.rid)
        del peer.rooms[room.number]
        peer.told.pop(room.number, None)

    def tell(self, room: Room) -> None:
        """Say what has become of a room since it was last told of."""
        peer = self._of_room[room.number]
        before = peer.told.get(room.number, RoomState.OPEN)
        if room.state is before or room.state is RoomState.FAILED:
            return
        peer.told[room.number] = room.state
        if before is RoomState.OPEN:
            self._send(peer, wire.Ready(room.number))
        if room.state is RoomState.COMPLETE:
            self._send(peer, wire.Taken(room.number))

    def receive(self, transfer: KvTransfer) -> None:
        """Take what has come."""
        for peer in self._peers.values():
            while peer.socket.poll(0):
                self._receive_one(peer, transfer)
            while peer.monitor.poll(0):
                recv_monitor_message(peer.monitor)
                for room in peer.rooms.values():
                    if room.state in (RoomState.OPEN, RoomState.READY):
                        room.fail(f"the prefill server at {peer.where} has gone")

    def await_received(self, count: int, transfer: KvTransfer) -> None:
        """Wait until so many messages have come since the start."""
        poller = zmq.Poller()
        for peer in self._peers.values():
            poller.register(peer.socket, zmq.POLLIN)
        while self.received < count:
            poller.poll()
            self.receive(transfer)

    def _receive_one(self, peer: _Peer, transfer: KvTransfer) -> None:
        frames = peer.socket.recv_multipart()
        self.received += 1
        try:
            message = wire.decode_for_decode(frames[0])
        except msgspec.DecodeError:
            return  # whoever that is, it is no prefill server of ours
        room = peer.rooms.get(message.room)
        if room is None:
            return  # its request has ended here
        match message:
            case wire.Ended(message=text):
                if room.state in (RoomState.OPEN, RoomState.READY):
                    room.fail(text)
            case wire.StartedOver(attempt=attempt):
                _start_over(room, attempt)
            case wire.Chunk():
                transfer.take_in(
                    room,
                    attempt=message.attempt,
                    start=message.start,
                    end=message.end,
                    first=message.first,
                    contents=wire.contents_of(message, frames[1]),
                    watched=message.watched,
                )

    def _peer(self, bootstrap: Bootstrap) -> _Peer:
        host = f"[{bootstrap.host}]" if ":" in bootstrap.host else bootstrap.host
        where = f"{host}:{bootstrap.port}"
        peer = self._peers.get(where)
        if peer is None:
            socket = self._context.socket(zmq.DEALER)
            socket.setsockopt(zmq.IPV6, ":" in bootstrap.host)
            for option in (zmq.SNDHWM, zmq.RCVHWM, zmq.LINGER):
                socket.setsockopt(option, 0)
            monitor = socket.get_monitor_socket(zmq.EVENT_DISCONNECTED)
            socket.connect(f"tcp://{where}")
            peer = self._peers[where] = _Peer(where, socket, monitor)
        return peer

    def _send(self, peer: _Peer, message: wire.ToPrefill) -> None:
        self.sent += 1
        peer.socket.send(wire.encode(message))


def _start_over(room: Room, attempt: int) -> None:
    if room.state is RoomState.READY:
        room.start_over()
        room.attempt = attempt
