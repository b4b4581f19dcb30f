"""Sockets of a session, behind a small protocol so that another transport can take their place."""

from __future__ import annotations

import weakref
from typing import Any, Protocol

import zmq

from scripted_core.wire.address import SessionAddress
from scripted_core.wire.messages import Message, OutOfBandError, decode, encode

_OFFERS_IN_FLIGHT = 4
"""Messages that may be lost wait in each end's queue up to this number."""


class Channel(Protocol):
    """One end of the wire."""

    def send(self, message: Message) -> None:
        """Send without waiting for the peer."""
        ...

    def offer(self, message: Message) -> bool:
        """Send if the peer keeps up with what is offered; False when the message was dropped."""
        ...

    def receive(self) -> Message | None:
        """The next message, or ``None`` when none is there."""
        ...

    def pollables(self) -> tuple[zmq.Socket[bytes], ...]:
        """What to poll for input."""
        ...

    def close(self) -> None:
        """Close the sockets; unsent messages get a moment."""
        ...


class TestSideChannel:
    """Binds; receives what the driver rank says and what any rank reports out of band."""

    __test__ = False  # its name looks like a test class to pytest

    def __init__(self, address: SessionAddress) -> None:
        self._token = address.token
        self._context = zmq.Context()
        self._pair = self._context.socket(zmq.PAIR)
        self._oob = self._context.socket(zmq.PULL)
        self._steps = self._context.socket(zmq.PULL)
        self._steps.rcvhwm = _OFFERS_IN_FLIGHT
        for socket, endpoint in (
            (self._pair, address.wire),
            (self._oob, address.out_of_band),
            (self._steps, address.steps),
        ):
            socket.linger = 0
            socket.bind(endpoint)
        # Also when it is dropped without a word: the context of open sockets waits for ever.
        self._close = weakref.finalize(
            self, _close_all, self._context, self._pair, self._oob, self._steps
        )

    def send(self, message: Message) -> None:
        """Send to the driver rank."""
        self._pair.send(encode(message, token=self._token), zmq.NOBLOCK)

    def offer(self, message: Message) -> bool:
        """Nobody watches the test side: nothing is sent."""
        return False

    def receive(self) -> Message | None:
        """The next message of any socket: out-of-band reports first, what is offered last."""
        for socket in (self._oob, self._pair, self._steps):
            try:
                return decode(socket.recv(zmq.NOBLOCK), token=self._token)
            except zmq.Again:
                continue
        return None

    def pollables(self) -> tuple[zmq.Socket[bytes], ...]:
        """All sockets that it binds."""
        return (self._pair, self._oob, self._steps)

    def close(self) -> None:
        """Close all; safe to call twice."""
        self._close()


def _close_all(context: zmq.Context[Any], *sockets: zmq.Socket[bytes]) -> None:
    for socket in sockets:
        socket.close()
    context.term()


class EngineSideChannel:
    """Connects from the driver rank."""

    def __init__(self, address: SessionAddress) -> None:
        self._token = address.token
        self._context = zmq.Context()
        self._pair = self._context.socket(zmq.PAIR)
        self._pair.linger = 1000
        self._pair.connect(address.wire)
        self._steps = self._context.socket(zmq.PUSH)
        self._steps.linger = 0
        self._steps.sndhwm = _OFFERS_IN_FLIGHT
        self._steps.connect(address.steps)

    def send(self, message: Message) -> None:
        """Send to the test side."""
        self._pair.send(encode(message, token=self._token), zmq.NOBLOCK)

    def offer(self, message: Message) -> bool:
        """Send on the socket that may lose: False when the reader is too far behind."""
        try:
            self._steps.send(encode(message, token=self._token), zmq.NOBLOCK)
        except zmq.Again:
            return False
        return True

    def receive(self) -> Message | None:
        """The next message, or ``None``."""
        try:
            return decode(self._pair.recv(zmq.NOBLOCK), token=self._token)
        except zmq.Again:
            return None

    def pollables(self) -> tuple[zmq.Socket[bytes], ...]:
        """The one socket that it receives on."""
        return (self._pair,)

    def close(self) -> None:
        """Close all; safe to call twice."""
        self._pair.close()
        self._steps.close()
        self._context.term()


def report_out_of_band(address: SessionAddress, report: OutOfBandError) -> None:
    """Send one report from any rank; used when its event loop is about to end."""
    with zmq.Context() as context, context.socket(zmq.PUSH) as socket:
        socket.linger = 1000
        socket.connect(address.out_of_band)
        socket.send(encode(report, token=address.token))
