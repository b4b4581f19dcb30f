"""``Gate``: passes on what a test client and an engine say to each other, one client at a time."""

from __future__ import annotations

import itertools
import socket
import time
from dataclasses import dataclass, field

import msgspec
import zmq

from scripted_core.errors import EngineBusy, EngineDied, ProtocolMismatch
from scripted_core.gate.ports import ClientPort, EngineWatch
from scripted_core.logs import get_logger
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
    ToClient,
    ToGate,
)
from scripted_core.wire.messages import (
    PROTOCOL_VERSION,
    HookReady,
    Message,
    OutOfBandError,
    RunScript,
    ScriptFailed,
    ScriptSucceeded,
    StepsEnded,
)
from scripted_core.wire.transport import Channel

_log = get_logger("scripted.gate")
_WATCH_INTERVAL_MS = 250
_PROBING_S = 3.0
"""For so long after a connection has ended it is looked at whether it was the client's: the socket
knows a moment later than its monitor."""


@dataclass(frozen=True)
class _Client:
    identity: bytes
    name: str
    since: float = field(default_factory=time.time)

    def __str__(self) -> str:
        return f"{self.name}, since {time.strftime('%H:%M:%S', time.localtime(self.since))}"


@dataclass(frozen=True)
class _Run:
    """A script in the engine: its number there and at the client, and whose it is."""

    number: int
    request_id: int
    script: str
    client: _Client


class Gate:
    """Runs until the engine has ended; ``ready`` is its hello, when that has come already."""

    def __init__(
        self,
        *,
        engine: Channel,
        watch: EngineWatch,
        clients: ClientPort,
        ready: HookReady | None = None,
    ) -> None:
        self._engine = engine
        self._watch = watch
        self._clients = clients
        self._ready = ready
        self._early: list[tuple[bytes, Attach]] = []
        self._client: _Client | None = None
        self._run: _Run | None = None
        self._numbers = itertools.count(1)
        self._probe_until = 0.0
        self._told_ticks = -1
        self._broken: str | None = None

    def serve(self) -> str:
        """Pass messages on; returns what ended when the engine has."""
        while True:
            self._wait()
            while (message := self._engine.receive()) is not None:
                self._from_engine(message)
            while (received := self._clients.receive()) is not None:
                self._from_client(*received)
            self._look_after_client()
            ended = self._watch.ended()
            if ended is not None:
                while (message := self._engine.receive()) is not None:
                    self._from_engine(message)  # why a rank broke says more than that it ended
                self._tell(EngineEnded(ended))
                return ended

    def _wait(self) -> None:
        poller = zmq.Poller()
        for one in (*self._engine.pollables(), *self._clients.pollables()):
            poller.register(one, zmq.POLLIN)
        for fd in self._watch.fds:
            poller.register(fd, zmq.POLLIN)
        busy = self._run is not None or time.monotonic() < self._probe_until
        started = self._ready is not None
        poller.poll(_WATCH_INTERVAL_MS if busy or not started else None)
        if not started:
            self._watch.refresh()

    # -- from the engine -----------------------------------------------------------------------

    def _from_engine(self, message: Message) -> None:
        match message:
            case HookReady():
                self._ready = message
                self._watch.refresh(message.pids)
                for identity, attach in self._early:
                    self._on_attach(identity, attach)
                self._early.clear()
            case ScriptSucceeded() | ScriptFailed():
                run, self._run = self._run, None
                if run is not None and run.client is self._client:
                    self._tell(msgspec.structs.replace(message, request_id=run.request_id))
            case StepsEnded():
                run = self._run
                if run is not None and run.client is self._client:
                    self._tell(msgspec.structs.replace(message, request_id=run.request_id))
            case OutOfBandError():
                self._broken = message.text.splitlines()[0]
                self._tell(message)
            case _:
                _log.warning("unexpected message", message=type(message).__name__)

    # -- from clients --------------------------------------------------------------------------

    def _from_client(self, identity: bytes, message: ToGate) -> None:
        if isinstance(message, Attach):
            if self._ready is None:
                self._early.append((identity, message))
            else:
                self._on_attach(identity, message)
            return
        client = self._client
        if client is None or client.identity != identity:
            _log.warning("not attached: passed over", message=type(message).__name__)
            return
        match message:
            case RunScript():
                number = next(self._numbers)
                self._run = _Run(number, message.request_id, message.script.qualname, client)
                self._engine.send(msgspec.structs.replace(message, request_id=number))
            case StacksWanted():
                self._tell(Stacks(self._watch.stacks()))
            case Detach():
                self._let_go("detached")

    def _on_attach(self, identity: bytes, attach: Attach) -> None:
        refusal = self._refusal(attach)
        if refusal is not None:
            _log.info("client refused", client=attach.client, why=refusal.message)
            self._clients.send(identity, refusal)
            return
        assert self._ready is not None, "clients that come earlier wait"
        self._watch.refresh()
        self._client = _Client(identity, attach.client)
        self._told_ticks = -1
        if self._clients.send(identity, Attached(self._ready, socket.gethostname())):
            _log.info("attached", client=attach.client)
        else:
            self._let_go("gone already")

    def _refusal(self, attach: Attach) -> AttachRefused | None:
        if attach.protocol_version != PROTOCOL_VERSION:
            return AttachRefused(
                ProtocolMismatch.code,
                f"the engine side speaks wire protocol {PROTOCOL_VERSION}, "
                f"this side {attach.protocol_version}",
                "install the same scripted-core for the tests and for the engine",
            )
        if self._broken is not None:
            return AttachRefused(
                EngineDied.code, f"the engine is broken: {self._broken}", "start it anew"
            )
        if self._client is not None and not self._clients.send(self._client.identity, Probe()):
            self._let_go("gone")
        if self._client is not None:
            return AttachRefused(
                EngineBusy.code,
                f"another test client is attached: {self._client}",
                "an engine takes one client at a time: wait for it, or end it",
                later=True,
            )
        if self._run is not None:
            return AttachRefused(
                EngineBusy.code,
                f"the script {self._run.script} of {self._run.client.name}, which has gone, still "
                "holds the engine",
                "it is given up at its next yield; if it never comes to one, start the engine anew",
                later=True,
            )
        return None

    def _look_after_client(self) -> None:
        """Tell it how far its script is, and notice when it is gone."""
        if self._clients.somebody_left():
            self._probe_until = time.monotonic() + _PROBING_S
        if self._client is None:
            return
        message: ToClient | None = Probe() if time.monotonic() < self._probe_until else None
        if self._run is not None:
            ticks, _, step = self._watch.progress()
            if ticks != self._told_ticks:
                self._told_ticks = ticks
                message = Progress(ticks, step)
        if message is not None and not self._clients.send(self._client.identity, message):
            self._let_go("gone")

    def _tell(self, message: ToClient) -> None:
        if self._client is not None and not self._clients.send(self._client.identity, message):
            self._let_go("gone")

    def _let_go(self, why: str) -> None:
        """The engine is free again: a script that still runs is given up at its next iteration."""
        assert self._client is not None
        _log.info(f"client {why}", client=self._client.name)
        if self._run is not None and self._run.client is self._client:
            self._watch.abandon(self._run.number)
        self._client = None
