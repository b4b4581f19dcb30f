"""Data-parallel replicas in lockstep with the one that runs the script.

SGLang's replicas know nothing of each other: each has its own inbox, and its own pace. While a script
holds the engine, every other replica waits at its iteration boundary until the driver lets it go, takes
up what the driver posted to it meanwhile, runs one iteration, and tells what became of it. So one
``yield`` is one iteration of every replica, and a request is seen wherever it runs.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping

import msgspec
import zmq
from scripted_core.views import RequestView
from scripted_core.wire.address import SessionAddress
from scripted_hook.ranks import ScriptBegins, ScriptEnds

from scripted_sglang.replica_link import (
    Arrived,
    Boundary,
    Expect,
    Go,
    Hold,
    Posted,
    ToDriver,
    ToReplica,
    endpoint,
)

_encoder = msgspec.msgpack.Encoder()
_to_driver: msgspec.msgpack.Decoder[tuple[str, ToDriver]] = msgspec.msgpack.Decoder(
    tuple[str, ToDriver]
)


class Replicas:
    """The driver's end: all other replicas, by rank, and what each was like at the last boundary."""

    def __init__(self, address: SessionAddress, *, size: int) -> None:
        self._token = address.token
        self._context = zmq.Context()
        self._sockets: dict[int, zmq.Socket[bytes]] = {}
        for replica in range(1, size):
            socket = self._context.socket(zmq.PAIR)
            socket.linger = 0
            socket.bind(endpoint(address, replica))
            self._sockets[replica] = socket
        self._boundaries: dict[int, Boundary] = {}
        self._posted: dict[int, list[Posted]] = {replica: [] for replica in self._sockets}
        self._on_their_way: dict[str, int] = {}
        self._queued: dict[int, deque[ToDriver]] = {replica: deque() for replica in self._sockets}
        self.size = size
        self.is_held = False

    # -- lockstep ------------------------------------------------------------------------------

    def hold(self) -> None:
        """Take hold of every replica; back when all wait at a boundary."""
        self.is_held = True
        self._on_their_way.clear()
        for replica in self._sockets:
            self._send(replica, Hold())
        self.await_boundaries()

    def await_boundaries(self) -> Mapping[int, Boundary]:
        """Every replica's boundary, in which all of them then wait."""
        for replica in self._sockets:
            while not isinstance(message := self._receive(replica), Boundary):
                pass
            self._boundaries[replica] = message
        return self._boundaries

    def go(self, *, last: bool = False) -> None:
        """Let every replica run an iteration with what was posted to it."""
        for replica, posted in self._posted.items():
            self._send(replica, Go(tuple(posted), last))
            posted.clear()
        self._on_their_way.clear()
        if last:
            self.is_held = False
            self._boundaries.clear()

    # -- the way in ----------------------------------------------------------------------------

    def post(self, op: Posted, *, only: int | None = None) -> None:
        """Let every replica, or one, take up an operation in the coming iteration."""
        for replica, posted in self._posted.items():
            if only in (None, replica):
                posted.append(op)

    def expect(self, rid: str, *, replica: int) -> None:
        """A request of the script is about to be posted to a replica."""
        self._send(replica, Expect(rid))

    def has_arrived(self, rid: str, *, replica: int, wake_fd: int, timeout_s: float) -> bool:
        """Wait until a request has arrived; ``False`` on input on ``wake_fd``, or when time is up."""
        socket, queued = self._sockets[replica], self._queued[replica]
        poller = zmq.Poller()
        poller.register(socket, zmq.POLLIN)
        poller.register(wake_fd, zmq.POLLIN)
        ready = dict(poller.poll(int(timeout_s * 1000)))
        if socket not in ready:
            return False
        message = self._decoded(socket.recv())
        if isinstance(message, Arrived):
            self._on_their_way[message.rid] = replica
            return message.rid == rid
        if message is not None:
            queued.append(message)
        return False

    # -- what they are like --------------------------------------------------------------------

    @property
    def boundaries(self) -> Iterator[Boundary]:
        """Each replica at its last boundary, by rank; nothing while they are not held."""
        return (self._boundaries[replica] for replica in sorted(self._boundaries))

    def replica_of(self, rid: str) -> int | None:
        """Where a live request is, or is on its way to, if it is one of them."""
        for replica, boundary in self._boundaries.items():
            if rid in boundary.outputs:
                return replica
        return self._on_their_way.get(rid)

    def request(self, rid: str) -> RequestView | None:
        """One live request."""
        for boundary in self.boundaries:
            for view in boundary.requests:
                if view.rid == rid:
                    return view
        return None

    @property
    def is_idle(self) -> bool:
        """No request is waiting or running on them, nor on its way to them."""
        return not self._on_their_way and all(one.is_idle for one in self.boundaries)

    @property
    def is_fully_idle(self) -> bool:
        """Idle, with nothing in flight and nothing posted that does anything."""
        waits = any(
            not isinstance(op, (ScriptBegins, ScriptEnds))
            for posted in self._posted.values()
            for op in posted
        )
        return not waits and self.is_idle and all(one.is_fully_idle for one in self.boundaries)

    # -- sockets -------------------------------------------------------------------------------

    def close(self) -> None:
        """Close all sockets."""
        for socket in self._sockets.values():
            socket.close()
        self._context.term()

    def _send(self, replica: int, message: ToReplica) -> None:
        self._sockets[replica].send(_encoder.encode((self._token, message)))

    def _receive(self, replica: int) -> ToDriver | None:
        queued = self._queued[replica]
        return queued.popleft() if queued else self._decoded(self._sockets[replica].recv())

    def _decoded(self, frame: bytes) -> ToDriver | None:
        token, message = _to_driver.decode(frame)
        return message if token == self._token else None
