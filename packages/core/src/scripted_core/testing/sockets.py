"""Sockets without a network: pollable, in order, never lossy."""

from __future__ import annotations

import os
import select
from collections import deque
from typing import Any

import zmq

from scripted_core.wire.messages import Message, decode, encode


class FakeUnderlyingSocket:
    """An engine's inbox socket: ``put`` what should arrive; poll it by its ``fileno``."""

    def __init__(self) -> None:
        self._messages: deque[Any] = deque()
        flags = os.EFD_SEMAPHORE | os.EFD_NONBLOCK | os.EFD_CLOEXEC
        self._fd = os.eventfd(0, flags)

    def put(self, message: Any) -> None:
        """Let ``message`` arrive; may be called from any thread."""
        self._messages.append(message)
        os.eventfd_write(self._fd, 1)

    def recv_pyobj(self, flags: int = 0) -> Any:
        """The next message; with ``zmq.NOBLOCK`` raises ``zmq.Again`` when there is none."""
        while True:
            try:
                os.eventfd_read(self._fd)
            except BlockingIOError:
                if flags & zmq.NOBLOCK:
                    raise zmq.Again from None
                poller = select.poll()
                poller.register(self._fd, select.POLLIN)
                poller.poll()
            else:
                return self._messages.popleft()

    def fileno(self) -> int:
        """Readable while there are messages."""
        return self._fd

    def __len__(self) -> int:
        return len(self._messages)

    def close(self) -> None:
        """Close the descriptor; may be called twice."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


class FakePairChannel:
    """One end of a wire inside this process; :meth:`pair` makes both. Frames are real ones."""

    def __init__(
        self, *, incoming: FakeUnderlyingSocket, outgoing: FakeUnderlyingSocket, token: str
    ) -> None:
        self._incoming = incoming
        self._outgoing = outgoing
        self._token = token

    @classmethod
    def pair(cls, *, token: str = "fake-token") -> tuple[FakePairChannel, FakePairChannel]:
        """The test side's end and the engine side's."""
        to_test, to_engine = FakeUnderlyingSocket(), FakeUnderlyingSocket()
        return (
            cls(incoming=to_test, outgoing=to_engine, token=token),
            cls(incoming=to_engine, outgoing=to_test, token=token),
        )

    def send(self, message: Message) -> None:
        """Send without waiting for the peer."""
        self.send_frame(encode(message, token=self._token))

    def offer(self, message: Message) -> bool:
        """Send as :meth:`send` does: this wire loses nothing."""
        self.send(message)
        return True

    def send_frame(self, frame: bytes) -> None:
        """Send any bytes, as a stranger would."""
        self._outgoing.put(frame)

    def receive(self) -> Message | None:
        """The next message, or ``None``; ``HandshakeError`` for a frame of a stranger."""
        try:
            return decode(self._incoming.recv_pyobj(zmq.NOBLOCK), token=self._token)
        except zmq.Again:
            return None

    def pollables(self) -> tuple[Any, ...]:
        """What to poll for input."""
        return (self._incoming,)

    def close(self) -> None:
        """Close what this end receives on; may be called twice."""
        self._incoming.close()
