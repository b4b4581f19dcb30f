"""The replicas' end of the lockstep, and what they and the driver say to each other."""

from __future__ import annotations

from typing import Any

import msgspec
import zmq
from scripted_core.ops import EngineOp, MemoryOp
from scripted_core.requests import ClientStream
from scripted_core.views import FinishReason, QueueView, RequestView
from scripted_core.wire.address import SessionAddress
from scripted_hook import BatchFacts, ScriptedTokenizerRecvProxy
from scripted_hook.ranks import ScriptBegins, ScriptEnds

from scripted_sglang._compat import rids_in
from scripted_sglang.inbox import Belonging

Posted = EngineOp | MemoryOp | ScriptBegins | ScriptEnds


class Hold(msgspec.Struct, frozen=True, tag=True):
    """To a replica: wait at each boundary from the next one on."""


class Expect(msgspec.Struct, frozen=True, tag=True):
    """To a replica: the request of this rid is the script's; say when it has arrived."""

    rid: str


class Go(msgspec.Struct, frozen=True, tag=True):
    """To a replica: take up ``posted`` and run one iteration; the hold is over with ``last``."""

    posted: tuple[Posted, ...]
    last: bool = False


class Arrived(msgspec.Struct, frozen=True, tag=True):
    """To the driver: the request is in the inbox."""

    rid: str


class End(msgspec.Struct, frozen=True):
    """A request has ended in the iteration."""

    rid: str
    reason: FinishReason
    output_ids: tuple[int, ...]


class Boundary(msgspec.Struct, frozen=True, tag=True):
    """To the driver: an iteration has ended, and this is what it brought and left."""

    requests: tuple[RequestView, ...]
    queues: QueueView
    outputs: dict[str, list[int]]
    batches: tuple[BatchFacts, ...]
    ends: tuple[End, ...]
    flushes: tuple[bool, ...]
    is_idle: bool
    is_fully_idle: bool


ToReplica = Hold | Expect | Go
ToDriver = Arrived | Boundary
_encoder = msgspec.msgpack.Encoder()
_to_replica: msgspec.msgpack.Decoder[tuple[str, ToReplica]] = msgspec.msgpack.Decoder(
    tuple[str, ToReplica]
)


def endpoint(address: SessionAddress, replica: int) -> str:
    """Where a replica and the driver meet."""
    return f"{address.ranks}-{replica}"


class ReplicaLink:
    """A replica's end: what it has to tell, and what it is told."""

    def __init__(self, address: SessionAddress, *, replica: int) -> None:
        self._token = address.token
        self._context = zmq.Context()
        self.socket = self._context.socket(zmq.PAIR)
        self.socket.linger = 0
        self.socket.connect(endpoint(address, replica))
        self._batches: list[BatchFacts] = []
        self._ends: list[End] = []
        self._flushes: list[bool] = []
        self.is_held = False

    def on_batch(self, facts: BatchFacts) -> None:
        """A batch is about to run."""
        if self.is_held:
            self._batches.append(facts)

    def on_end(self, end: End) -> None:
        """A request has ended."""
        if self.is_held:
            self._ends.append(end)

    def on_flush(self, ok: bool) -> None:
        """A flush is done, or was refused."""
        if self.is_held:
            self._flushes.append(ok)

    def tell_boundary(self, adapter: Any) -> None:
        """What the iteration that has ended brought and left."""
        self._send(
            Boundary(
                requests=tuple(adapter.requests()),
                queues=adapter.queues(),
                outputs={rid: list(ids) for rid, ids in adapter.live_outputs()},
                batches=tuple(self._batches),
                ends=tuple(self._ends),
                flushes=tuple(self._flushes),
                is_idle=adapter.is_idle(),
                is_fully_idle=adapter.is_fully_idle(),
            )
        )
        self._batches.clear()
        self._ends.clear()
        self._flushes.clear()

    def tell_arrival(self, rid: str) -> None:
        """A request of the script has arrived."""
        self._send(Arrived(rid))

    def _send(self, message: ToDriver) -> None:
        self.socket.send(_encoder.encode((self._token, message)))

    def close(self) -> None:
        """Close the socket."""
        self.socket.close()
        self._context.term()

    def receive(self) -> ToReplica | None:
        """The driver's next word, or ``None`` when there is none."""
        try:
            token, message = _to_replica.decode(self.socket.recv(zmq.NOBLOCK))
        except zmq.Again:
            return None
        return message if token == self._token else None

    def next_go(self, proxy: ScriptedTokenizerRecvProxy, belonging: Belonging) -> Go | None:
        """Read what has come from the driver and from clients; the word to go, once it is there.

        The driver says of a request that it comes before it sends it, but over another socket: it
        may be read, and parked as a stranger's, before that is known.
        """
        ours: list[Any] = []
        while (message := self.receive()) is not None:
            if isinstance(message, Go):
                return message
            if isinstance(message, Expect):
                # Its client is at the other end, and a hang-up of it is not told here.
                belonging.clients[message.rid] = ClientStream()
                ours += proxy.reconsider()
        ours += proxy.read_ahead()
        for rid in (rid for arrived in ours for rid in rids_in(arrived)):
            self.tell_arrival(rid)
        return None
