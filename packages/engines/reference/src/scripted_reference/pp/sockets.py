"""The way of one stage to the others when each is a process of its own."""

from __future__ import annotations

from collections import deque
from pathlib import Path
from typing import TypeVar

import zmq

from scripted_reference.models.base import BatchResult
from scripted_reference.pp import wire
from scripted_reference.pp.stage import Hidden, Stage
from scripted_reference.server.wire import unlimited

_T = TypeVar("_T")


class SocketLink:
    """Sockets from the stage before, to the next one, and from the last one.

    Everything that the stage before sends comes over one socket, in its order: the beginning of an
    iteration, then what is handed over in it. Waiting is without end: a stage that ends takes all
    others with it.
    """

    def __init__(
        self, context: zmq.Context[zmq.Socket[bytes]], *, folder: Path, stage: Stage
    ) -> None:
        self._stage = stage
        self._context = context
        self._folder = folder
        self._own_results: deque[BatchResult] = deque()
        self._from_before = self._bound(f"stage-{stage.index}")
        self._from_last = self._bound(f"results-{stage.index}")
        self._to_next = None if stage.is_last else self._connected(f"stage-{stage.index + 1}")
        self._to_driver = None if stage.is_first else self._connected("results-0")
        self._to_all = (
            [self._connected(f"results-{index}") for index in range(stage.count - 1)]
            if stage.is_last
            else []
        )

    def meet(self) -> None:
        """Return when every way has been gone once: all stages are there, and hear each other."""
        if not self._stage.is_first:
            self._expect(wire.Hello)
        if self._to_next is not None:
            self._to_next.send(wire.encode(wire.Hello()))
        for socket in self._to_all:
            socket.send(wire.encode(wire.Up()))
        if self._to_driver is not None:
            if not self._stage.is_last:
                self._expect_from_last(wire.Up)
            self._to_driver.send(wire.encode(wire.Met(self._stage.index)))
            return
        missing: set[wire.FromLast] = {wire.Up()}
        missing.update(wire.Met(index) for index in range(1, self._stage.count))
        while missing:  # they come from several stages, in any order
            missing.discard(wire.decode_from_last(self._from_last.recv()))

    def send_turn(self, messages: list[wire.StageMessage]) -> None:
        """Begin an iteration on the next stage, if there is one."""
        if self._to_next is not None:
            self._to_next.send(wire.encode(wire.Turn(messages)))

    def recv_turn(self) -> list[wire.StageMessage]:
        """Wait for the beginning of an iteration."""
        return self._expect(wire.Turn).messages

    def send_hidden(self, hidden: Hidden) -> None:
        """Hand a batch to the next stage."""
        assert self._to_next is not None, "the last stage has a result"
        self._to_next.send(wire.encode(wire.hidden_state(hidden)))

    def recv_hidden(self) -> Hidden:
        """Wait for a batch of the stage before."""
        return wire.hidden_array(self._expect(wire.HiddenState))

    def send_result(self, result: BatchResult) -> None:
        """Tell every stage what came out of a batch."""
        frame = wire.encode(wire.stage_result(result))
        for socket in self._to_all:
            socket.send(frame)
        self._own_results.append(result)

    def recv_result(self) -> BatchResult:
        """Wait for the result of the oldest batch whose result was not received yet."""
        if self._stage.is_last:
            return self._own_results.popleft()
        return wire.batch_result(self._expect_from_last(wire.StageResult))

    def _expect(self, kind: type[_T]) -> _T:
        message = wire.decode_downstream(self._from_before.recv())
        assert isinstance(message, kind), f"{type(message).__name__} came, not {kind.__name__}"
        return message

    def _expect_from_last(self, kind: type[_T]) -> _T:
        message = wire.decode_from_last(self._from_last.recv())
        assert isinstance(message, kind), f"{type(message).__name__} came, not {kind.__name__}"
        return message

    def _bound(self, name: str) -> zmq.Socket[bytes]:
        socket = self._context.socket(zmq.PULL)
        unlimited(socket)
        socket.bind(f"ipc://{self._folder}/{name}")
        return socket

    def _connected(self, name: str) -> zmq.Socket[bytes]:
        socket = self._context.socket(zmq.PUSH)
        unlimited(socket)
        socket.connect(f"ipc://{self._folder}/{name}")
        return socket
