"""The scheduler's inbox: what comes from the front, and what of it belongs to a script."""

from __future__ import annotations

from typing import Any

import zmq

from scripted_reference.server import wire


class FrontSocket:
    """The socket from the front, decoded."""

    def __init__(self, socket: zmq.Socket[bytes]) -> None:
        self.socket = socket

    def recv_pyobj(self, flags: int = 0) -> wire.ToScheduler:
        """The next message; raises `zmq.Again` when there is none and `flags` has NOBLOCK."""
        return wire.decode_for_scheduler(self.socket.recv(flags))


class Belonging:
    """Tells a script's own messages from those of others.

    Its requests are known by rid. A control message from the front is its own only while it waits
    for one of that type; so is an abort, which the front also sends for a client that went away.
    """

    def __init__(self) -> None:
        self.rids: set[str] = set()
        self.expected: set[type] = set()

    def is_foreign(self, message: Any) -> bool:
        """Whether a message has to wait until the script is over."""
        if isinstance(message, wire.Generate):
            return message.rid not in self.rids
        if isinstance(message, wire.GetState):
            return False
        return type(message) not in self.expected
