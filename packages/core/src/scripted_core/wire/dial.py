"""The test side's end of TCP: reach an engine's gate, prove keys, and notice when it goes."""

from __future__ import annotations

import contextlib
import math
import socket
import time
import weakref
from typing import Any, NoReturn

import zmq
from zmq.utils.monitor import recv_monitor_message

from scripted_core.errors import EngineUnreachable, HandshakeError, KeyRefused
from scripted_core.wire.attach_messages import ToClient, ToGate, pack, unpack_for_client
from scripted_core.wire.keys import ClientKey
from scripted_core.wire.listener import HEARTBEAT_INTERVAL_MS, HEARTBEAT_TIMEOUT_MS
from scripted_core.wire.tcp import TcpAddress, resolved

REMOTE_DEATH_S = (HEARTBEAT_INTERVAL_MS + HEARTBEAT_TIMEOUT_MS) / 1000
"""A machine that vanishes is noticed within this; a process that ends, at once."""

_RETRY_INTERVAL_S = 0.2
_HANDSHAKE_MS = 5000
_NO_RECONNECT_MS = 24 * 3600 * 1000


def await_port(address: TcpAddress, *, wait_s: float, timeout_s: float) -> str:
    """Open a connection once, to say what is in the way; returns the number of the host.

    A port on which nobody listens is asked again for ``wait_s`` seconds: it has no event to wait for.
    Raises ``EngineUnreachable``.
    """
    deadline = time.monotonic() + wait_s
    while True:
        try:
            _, number = resolved(address)
            with socket.create_connection((number, address.port), timeout=timeout_s):
                return number
        except OSError as error:
            if time.monotonic() >= deadline:
                _raise_unreachable(address, error, waited_s=wait_s)
        time.sleep(_RETRY_INTERVAL_S)


def _raise_unreachable(address: TcpAddress, error: OSError, *, waited_s: float) -> NoReturn:
    waited = f" within {waited_s:g} s" if waited_s else ""
    what: str = error.strerror or str(error)
    match error:
        case ConnectionRefusedError():
            what = "nobody listens there"
            hint = (
                "is SCRIPTED_LISTEN set where the engine starts, and is it started? Its log says "
                "what it listens on"
            )
        case socket.gaierror():
            what, hint = f"no such host ({what})", "check the name, or give the number"
        case TimeoutError():
            what, hint = "no answer", "check host and port; a firewall may drop what is sent there"
        case _:
            hint = "check host and port, and the network between the two machines"
    raise EngineUnreachable(f"cannot reach {address}{waited}: {what}", hint=hint) from error


class GateConnection:
    """One connection to a gate; it is not made anew when it ends."""

    def __init__(self, address: TcpAddress, *, number: str, key: ClientKey) -> None:
        self.address = address
        self._key = key
        self._lost = False
        self._context = zmq.Context()
        self._dealer = self._context.socket(zmq.DEALER)
        self._dealer.linger = 1000
        self._dealer.ipv6 = ":" in number
        # Never, in effect. Told so outright (-1), ZeroMQ drops what was received and not yet read.
        self._dealer.reconnect_ivl = _NO_RECONNECT_MS
        self._dealer.handshake_ivl = _HANDSHAKE_MS
        self._dealer.heartbeat_ivl = HEARTBEAT_INTERVAL_MS
        self._dealer.heartbeat_timeout = HEARTBEAT_TIMEOUT_MS
        self._dealer.curve_serverkey = key.engine_public.encode()
        self._dealer.curve_publickey = key.public.encode()
        self._dealer.curve_secretkey = key.secret.encode()
        self._monitor = self._dealer.get_monitor_socket()
        # Also when it is dropped without a word: the context of open sockets waits for ever.
        self._close = weakref.finalize(self, _close_all, self._dealer, self._monitor, self._context)
        self._dealer.connect(str(TcpAddress(number, address.port)))

    def await_handshake(self, *, timeout_s: float) -> None:
        """Return when both ends have proved their keys; ``KeyRefused``, ``HandshakeError`` or
        ``EngineUnreachable`` say what kept them from it."""
        deadline = time.monotonic() + timeout_s
        while (left_s := deadline - time.monotonic()) > 0:
            if not self._monitor.poll(math.ceil(left_s * 1000)):
                continue
            event = recv_monitor_message(self._monitor)
            match event["event"]:
                case zmq.Event.HANDSHAKE_SUCCEEDED:
                    return
                case zmq.Event.HANDSHAKE_FAILED_AUTH:
                    raise KeyRefused(
                        f"{self.address} does not let the key of {self._key.name!r} in: it is not "
                        "in the engine's allow-list",
                        hint="add a client where the engine's keys are: scripted keys DIR "
                        "--client NAME, and use NAME.key",
                    )
                case zmq.Event.HANDSHAKE_FAILED_NO_DETAIL if event["value"] != zmq.EAGAIN:
                    raise KeyRefused(
                        f"{self.address} hung up while keys were exchanged: the engine there has "
                        f"another key than the one that {self._key.name!r} was made for, or no "
                        "scripted engine listens there",
                        hint="use a client key of the same folder as the engine's key "
                        "(scripted keys DIR makes both)",
                    )
                case zmq.Event.HANDSHAKE_FAILED_NO_DETAIL | zmq.Event.HANDSHAKE_FAILED_PROTOCOL:
                    raise HandshakeError(
                        f"what listens on {self.address} is no scripted engine",
                        hint="use the port of SCRIPTED_LISTEN, not that of the HTTP server",
                    )
                case zmq.Event.DISCONNECTED | zmq.Event.CLOSED:
                    raise EngineUnreachable(
                        f"{self.address} closed the connection",
                        hint="is the engine ending? Its log says",
                    )
        raise EngineUnreachable(
            f"{self.address} did not answer within {timeout_s:g} s",
            hint="check that a scripted engine listens there",
        )

    def send(self, message: ToGate) -> None:
        """Send without waiting."""
        self._dealer.send(pack(message), zmq.NOBLOCK)

    def receive(self) -> ToClient | None:
        """The next message; ``None`` when there is none."""
        try:
            return unpack_for_client(self._dealer.recv(zmq.NOBLOCK))
        except zmq.Again:
            return None

    def poll(self, timeout_s: float) -> None:
        """Wait for input, or for the end of the connection."""
        poller = zmq.Poller()
        for one in self.pollables():
            poller.register(one, zmq.POLLIN)
        poller.poll(math.ceil(max(0.0, timeout_s) * 1000))

    @property
    def lost(self) -> bool:
        """Whether the connection has ended; what had been received before can still be read."""
        while not self._lost and self._monitor.poll(0):
            event = recv_monitor_message(self._monitor)["event"]
            if event in (zmq.Event.DISCONNECTED, zmq.Event.CLOSED):
                self._lost = True
        return self._lost

    def pollables(self) -> tuple[Any, ...]:
        """What to poll for input."""
        return (self._dealer,) if self._lost else (self._dealer, self._monitor)

    def close(self) -> None:
        """Close all; safe to call twice."""
        self._close()


def _close_all(
    dealer: zmq.Socket[bytes], monitor: zmq.Socket[bytes], context: zmq.Context[Any]
) -> None:
    with contextlib.suppress(zmq.ZMQError):
        dealer.disable_monitor()
    monitor.close(linger=0)
    dealer.close()
    context.term()
