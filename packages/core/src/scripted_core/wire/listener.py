"""The engine's end of TCP: a ROUTER that only known keys get through to."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Callable, Mapping
from typing import Any

import zmq
from zmq.auth.thread import ThreadAuthenticator
from zmq.utils.monitor import recv_monitor_message

from scripted_core.errors import EngineStartError, HandshakeError
from scripted_core.logs import get_logger
from scripted_core.wire.attach_messages import ToClient, ToGate, pack, unpack_for_gate
from scripted_core.wire.keys import EngineKey
from scripted_core.wire.tcp import TcpAddress, resolved

HEARTBEAT_INTERVAL_MS = 1000
HEARTBEAT_TIMEOUT_MS = 3000
"""A peer that says nothing for that long, heartbeats included, is gone."""

_DOMAIN = "scripted"
_LARGEST_MESSAGE_BYTES = 256 * 1024 * 1024
_log = get_logger("scripted.gate")


class Listener:
    """Binds with the engine's key; CURVE alone lets any key in, the ZAP allow-list does not.

    ``allowed`` is asked for the public keys by client name at each connection, so that a client can
    be added to, or taken from, the allow-list of an engine that runs.
    """

    def __init__(
        self,
        address: TcpAddress,
        *,
        key: EngineKey,
        allowed: Callable[[], Mapping[str, str]],
    ) -> None:
        self._context = zmq.Context()
        self._authenticator = ThreadAuthenticator(self._context)
        self._authenticator.start()
        self._authenticator.configure_curve_callback(
            domain=_DOMAIN, credentials_provider=_AllowList(allowed)
        )
        self._router = self._context.socket(zmq.ROUTER)
        self._router.linger = 1000
        self._router.curve_server = True
        self._router.curve_publickey = key.public.encode()
        self._router.curve_secretkey = key.secret.encode()
        self._router.zap_domain = _DOMAIN.encode()
        self._router.router_mandatory = True
        self._router.maxmsgsize = _LARGEST_MESSAGE_BYTES
        self._router.heartbeat_ivl = HEARTBEAT_INTERVAL_MS
        self._router.heartbeat_timeout = HEARTBEAT_TIMEOUT_MS
        self._monitor = self._router.get_monitor_socket(zmq.EVENT_DISCONNECTED)
        try:
            family, host = resolved(address, listening=True)
            self._router.ipv6 = family is socket.AF_INET6
            self._router.bind(str(TcpAddress(host, address.port)))
        except (OSError, zmq.ZMQError) as error:
            self.close()
            reason = os.strerror(error.errno) if error.errno else str(error)
            raise EngineStartError(
                f"cannot listen on {address} for test clients: {reason}",
                hint="free that port or choose another (port 0 takes a free one), on an address "
                "of this machine",
            ) from error
        bound = self._router.getsockopt_string(zmq.LAST_ENDPOINT)
        self.address = TcpAddress(address.host, int(bound.rpartition(":")[2]))

    def send(self, client: bytes, message: ToClient) -> bool:
        """Send to one client; False when it is not there any more."""
        try:
            self._router.send_multipart([client, pack(message)], zmq.NOBLOCK)
        except zmq.Again:  # it does not read: the message is lost, and it is there
            return True
        except zmq.ZMQError as error:
            if error.errno == zmq.EHOSTUNREACH:
                return False
            raise
        return True

    def receive(self) -> tuple[bytes, ToGate] | None:
        """The next message and whose it is; ``None`` when there is none."""
        while True:
            try:
                frames = self._router.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return None
            try:
                client, frame = frames
                return client, unpack_for_gate(frame)
            except (HandshakeError, ValueError) as error:
                _log.warning("bad frame passed over", error=str(error))

    def somebody_left(self) -> bool:
        """Whether a connection has ended since this was last asked."""
        left = False
        while self._monitor.poll(0):
            recv_monitor_message(self._monitor)
            left = True
        return left

    def pollables(self) -> tuple[Any, ...]:
        """What to poll for input."""
        return (self._router, self._monitor)

    def close(self) -> None:
        """Close all; what was sent to a client gets a moment."""
        with contextlib.suppress(zmq.ZMQError):
            self._router.disable_monitor()
        self._monitor.close(linger=0)
        self._router.close()
        self._authenticator.stop()
        self._context.term()


class _AllowList:
    def __init__(self, allowed: Callable[[], Mapping[str, str]]) -> None:
        self._allowed = allowed

    def callback(self, domain: str, key: bytes) -> bool:
        """Called in the authenticator's thread; an exception in it would end that."""
        try:
            known = key.decode() in self._allowed().values()
        except Exception as error:
            _log.error("the allow-list cannot be read; nobody is let in", error=str(error))
            return False
        if not known:
            _log.warning("a key that is not in the allow-list was turned away", key=key.decode())
        return known
