"""The scheduler's inbox: what comes through its socket, and what of it belongs to a script."""

from __future__ import annotations

from typing import Any

import msgspec
import zmq
from scripted_core.ops import MemoryOp
from scripted_core.requests import ClientStream
from scripted_hook.ranks import RankNotice

from scripted_sglang._compat import rids_in

_ALWAYS_THROUGH = frozenset({"ShutdownReq"})


class RankOp(msgspec.Struct, frozen=True):
    """A memory operation or a notice on its way to every rank, through SGLang's own broadcast."""

    op: MemoryOp | RankNotice


def is_notice(message: Any) -> bool:
    """Whether a message only tells ranks of a script."""
    return isinstance(message, RankOp) and isinstance(message.op, RankNotice)


class TokenizerSocket:
    """SGLang's socket from the tokenizer, decoded as SGLang decodes it."""

    def __init__(self, socket: Any) -> None:
        self.socket = socket

    def recv_pyobj(self, flags: int = 0) -> Any:
        """The next message; raises ``zmq.Again`` when there is none."""
        from sglang.srt.managers.io_struct import sock_recv

        return sock_recv(self.socket, flags)


class Belonging:
    """Tells a script's own messages from those of others.

    Its requests are known by rid; a control message from the HTTP side is its own only while it
    waits for one of that type. So is an abort: SGLang's front sends one for every stream two
    seconds after its end, which would hit the request of the same rid in the next script. Only one
    for a client that has hung up is what the script waits for.
    """

    def __init__(self) -> None:
        self.clients: dict[str, ClientStream] = {}
        self.expected_types: set[str] = set()

    def is_foreign(self, message: Any) -> bool:
        """Whether a message has to wait until the script is over."""
        name = type(message).__name__
        if name in _ALWAYS_THROUGH or name in self.expected_types:
            return False
        if name == "AbortReq" and message.rid in self.clients:
            return not self.clients[message.rid].hung_up
        return not any(rid in self.clients for rid in rids_in(message))


def wait_for_input(sockets: list[Any], *, timeout_s: float) -> None:
    """Sleep until one of the sockets has input, or the time is up."""
    poller = zmq.Poller()
    for socket in sockets:
        poller.register(socket, zmq.POLLIN)
    poller.poll(int(timeout_s * 1000))
