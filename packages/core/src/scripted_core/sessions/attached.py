"""A server engine that somebody else has started, reached through its gate."""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgspec
import zmq

from scripted_core.errors import (
    ConfigError,
    EngineUnreachable,
    HandshakeError,
    TransportError,
    error_from_code,
)
from scripted_core.wire.attach_messages import (
    Attach,
    Attached,
    AttachRefused,
    Detach,
    EngineEnded,
    Probe,
    Progress,
    Stacks,
    StacksWanted,
)
from scripted_core.wire.dial import REMOTE_DEATH_S, GateConnection, await_port
from scripted_core.wire.keys import read_client_key
from scripted_core.wire.messages import PROTOCOL_VERSION, HookReady, Message, RunScript
from scripted_core.wire.tcp import TcpAddress, parse_tcp

ENV_CLIENT_KEY_FILE = "SCRIPTED_CLIENT_KEY_FILE"
DEFAULT_ATTACH_TIMEOUT_S = 10.0
_ASK_AGAIN_S = 0.25
_STACKS_TIMEOUT_S = 10.0
_LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1", "0.0.0.0", "::", ""})


@dataclass(frozen=True, kw_only=True)
class AttachTo:
    """Which engine to attach to, and how long to try.

    ``key_file`` is a client's key (default: ``$SCRIPTED_CLIENT_KEY_FILE``). ``timeout_s`` bounds
    every answer; ``wait_s`` is how long to wait for a server that does not listen yet, and for one
    that another client is attached to.
    """

    address: str
    key_file: str | os.PathLike[str] | None = None
    timeout_s: float = DEFAULT_ATTACH_TIMEOUT_S
    wait_s: float = 0.0

    @property
    def key_path(self) -> Path:
        """The key file; ``ConfigError`` when none was named."""
        given = self.key_file or os.environ.get(ENV_CLIENT_KEY_FILE)
        if not given:
            raise ConfigError(
                f"no key to attach to {self.address} with",
                hint="name a client's key file (--scripted-key, --key, key_file= or "
                f"${ENV_CLIENT_KEY_FILE}); scripted keys DIR makes one",
            )
        return Path(given)


class AttachedEngine:
    """One attachment. It ends when the connection does: the engine is free then.

    What of the engine's processes is left is the gate's to watch. A gate that ends with them closes
    the connection, which is seen at once; a machine that vanishes, within ``REMOTE_DEATH_S``.
    """

    main_pid = None
    log_path = None

    def __init__(self, to: AttachTo) -> None:
        self.address = parse_tcp(to.address, what="the address")
        key = read_client_key(to.key_path)
        deadline = time.monotonic() + to.wait_s
        number = await_port(self.address, wait_s=to.wait_s, timeout_s=to.timeout_s)
        self._connection = GateConnection(self.address, number=number, key=key)
        self._ended: str | None = None
        self._unread: deque[Message] = deque()
        self._ticks = self._step = 0
        try:
            self._connection.await_handshake(timeout_s=to.timeout_s)
            attached = self._attach(timeout_s=to.timeout_s, deadline=deadline)
        except BaseException:
            self._connection.close()
            raise
        self.ready: HookReady = _without_processes(attached.ready)
        self.host = attached.host

    def _attach(self, *, timeout_s: float, deadline: float) -> Attached:
        while True:
            self._connection.send(Attach(PROTOCOL_VERSION, client_name()))
            answer = self._answer(timeout_s=timeout_s)
            if isinstance(answer, Attached):
                return answer
            if not answer.later or time.monotonic() >= deadline:
                raise error_from_code(
                    answer.code, f"{self.address}: {answer.message}", hint=answer.hint or None
                )
            time.sleep(_ASK_AGAIN_S)  # whoever is attached does not tell us when he goes

    def _answer(self, *, timeout_s: float) -> Attached | AttachRefused:
        deadline = time.monotonic() + timeout_s
        while (left_s := deadline - time.monotonic()) > 0:
            self._connection.poll(left_s)
            message = self._connection.receive()
            if isinstance(message, (Attached, AttachRefused)):
                return message
            if message is None and self._connection.lost:
                raise EngineUnreachable(
                    f"{self.address} closed the connection", hint="is the engine ending?"
                )
        raise HandshakeError(
            f"{self.address} let the key in, but the engine did not say hello within {timeout_s:g} s",
            hint="it may still be starting, or be stuck; its log says",
        )

    @property
    def base_url(self) -> str:
        """The front that the engine names; one of its own machine, under the address attached to."""
        url = urlsplit(self.ready.base_url)
        if not self.ready.base_url or url.hostname not in _LOOPBACK or url.port is None:
            return self.ready.base_url
        return f"{url.scheme}{str(TcpAddress(self.address.host, url.port)).removeprefix('tcp')}"

    @property
    def member_urls(self) -> dict[str, str]:
        """An engine that is attached to is one server."""
        return {}

    @property
    def pids(self) -> dict[int, str]:
        """As they are numbered on the engine's machine."""
        return {pid: name for name, pid in self.ready.pids.items()}

    def log_text(self) -> str:
        """It is elsewhere."""
        return ""

    def log_tail(self) -> str:
        """Where it is."""
        return f"(the engine's log is where it was started, on {self.host})"

    def accept(self, ready: HookReady) -> None:
        """Nothing to do: the gate watches."""

    def pollables(self) -> tuple[Any, ...]:
        """The connection and its monitor."""
        return self._connection.pollables()

    def send(self, message: Message) -> None:
        """Send to the gate."""
        if not isinstance(message, RunScript):
            raise TransportError(f"a {type(message).__name__} is not for an engine of others")
        with contextlib.suppress(zmq.Again):  # gone: the next look at the connection says so
            self._connection.send(message)

    def receive(self) -> Message | None:
        """The next message for the session; what the gate itself says is kept."""
        if self._unread:
            return self._unread.popleft()
        while True:
            message = self._connection.receive()
            match message:
                case Progress(ticks=ticks, step=step):
                    self._ticks, self._step = ticks, step
                case EngineEnded(text=text):
                    self._ended = text
                case Probe() | Stacks() | Attached() | AttachRefused():
                    pass
                case _:
                    return message

    def ended(self) -> str | None:
        """What the gate saw end, or that the connection has."""
        if self._ended is None and self._connection.lost:
            while (last := self.receive()) is not None:  # its last words
                self._unread.append(last)
        if self._ended is None and self._connection.lost:
            self._ended = (
                f"the connection to {self.address} has ended (the engine's processes have, or its "
                f"machine was silent for {REMOTE_DEATH_S:g} s)"
            )
        return self._ended

    def progress(self) -> tuple[int, int]:
        """As the gate last said."""
        return self._ticks, self._step

    def steps_of(self, request_id: int) -> int | None:
        """Not known: what the gate says is a moment old."""
        return None

    def all_stacks(self) -> str:
        """What the gate finds out about every process."""
        with contextlib.suppress(zmq.Again):
            self._connection.send(StacksWanted())
        deadline = time.monotonic() + _STACKS_TIMEOUT_S
        while (left_s := deadline - time.monotonic()) > 0 and not self._connection.lost:
            self._connection.poll(left_s)
            message = self._connection.receive()
            if isinstance(message, Stacks):
                return message.text
        return "(the engine's machine did not send its stacks)"

    def explain(self) -> str | None:
        """Nothing was started here."""
        return None

    def stop(self, *, politely: bool) -> None:
        """Detach: the engine runs on, and is free."""
        with contextlib.suppress(zmq.Again):
            self._connection.send(Detach())
        self._connection.close()


def client_name() -> str:
    """This process as others are told of it: user, host and pid."""
    user = os.environ.get("USER") or os.environ.get("LOGNAME") or f"uid {os.getuid()}"
    return f"{user}@{socket.gethostname()} (pid {os.getpid()})"


def _without_processes(ready: HookReady) -> HookReady:
    """Processes of another machine are not there to be killed by a test."""
    from scripted_core.capabilities import Capability

    kept = tuple(one for one in ready.capabilities if one != Capability.PROCESSES)
    return msgspec.structs.replace(ready, capabilities=kept)
