"""The messages of the wire, as msgspec tagged structs in MessagePack.

``PROTOCOL_VERSION`` changes whenever one of them changes its meaning. Every frame carries the
session's token, so that a stranger on the socket is told from the engine that was started.
"""

from __future__ import annotations

from typing import Any

import msgspec

from scripted_core.errors import HandshakeError
from scripted_core.ranks import RankReport
from scripted_core.trace import NOTHING_CHECKED, ChecksDone, StepTrace

PROTOCOL_VERSION = 1


class ScriptRef(msgspec.Struct, frozen=True):
    """Where a script is: enough for another process to import exactly the same code.

    ``content_hash`` is of the file as the test's process read it; ``sys_path`` what that process
    would find further imports on; ``is_method`` says that the function wants an instance first.
    ``source`` is the file's content where the other side may not have the file.
    """

    path: str
    module_name: str
    qualname: str
    content_hash: str
    sys_path: tuple[str, ...] = ()
    is_method: bool = False
    source: bytes = b""


class RunScript(msgspec.Struct, frozen=True, tag=True):
    """Take hold, reset, and run this script. ``args`` and ``kwargs`` are tagged plain data."""

    request_id: int
    script: ScriptRef
    args: Any
    kwargs: Any
    check_invariants: bool = True
    seed: int = 0
    want_trace: bool = False
    stream_steps: bool = False


class Shutdown(msgspec.Struct, frozen=True, tag=True):
    """The session is over: the engine is about to be stopped."""


class HookReady(msgspec.Struct, frozen=True, tag=True):
    """The engine side's part of the handshake; ``hooks_fired`` is proof that the hooks are in.

    ``base_url`` is where its HTTP front is, as seen from its own machine, and ``arguments`` are its
    server arguments, plain ones only: empty where the adapter does not say.
    """

    protocol_version: int
    engine: str
    engine_version: str
    capabilities: tuple[str, ...]
    pids: dict[str, int]
    hooks_fired: tuple[str, ...]
    base_url: str = ""
    arguments: dict[str, Any] = {}


class StepsEnded(msgspec.Struct, frozen=True, tag=True):
    """Iterations of a running script, for somebody who watches; some may be left out.

    Only sent when ``stream_steps`` was asked for, and only while the reader keeps up.
    """

    request_id: int
    steps: tuple[StepTrace, ...]


class ScriptSucceeded(msgspec.Struct, frozen=True, tag=True):
    """The script ran to its end."""

    request_id: int
    steps: int
    event_digest: str = ""
    trace: tuple[StepTrace, ...] = ()
    checks: ChecksDone = NOTHING_CHECKED


class ScriptFailed(msgspec.Struct, frozen=True, tag=True):
    """The script ended with an error.

    ``outcome`` is one of :class:`~scripted_core.sessions.outcome.Ended`; ``code`` and ``hint`` are set
    for errors of our own tree, ``code`` also for the exit status of a ``pytest.exit``.
    ``error_bases`` are the classes that an ``except`` for the error could name, as ``module:Name``.
    """

    request_id: int
    outcome: str
    error_type: str
    message: str
    traceback: str
    last_state: str
    code: str = ""
    hint: str = ""
    trace: tuple[StepTrace, ...] = ()
    checks: ChecksDone = NOTHING_CHECKED
    error_bases: tuple[str, ...] = ()


class OutOfBandError(msgspec.Struct, frozen=True, tag=True):
    """A rank's event loop, or the hook in it, broke outside a script."""

    rank: str
    pid: int
    error_type: str
    message: str
    traceback: str

    @property
    def text(self) -> str:
        """What broke, for a person: a line, and the traceback below it."""
        return (
            f"rank {self.rank} (pid {self.pid}) broke: {self.error_type}: {self.message}\n\n"
            f"{self.traceback}"
        )


Message = (
    RunScript
    | Shutdown
    | HookReady
    | StepsEnded
    | ScriptSucceeded
    | ScriptFailed
    | OutOfBandError
    | RankReport
)


class _Envelope(msgspec.Struct, frozen=True, array_like=True):
    token: str
    body: msgspec.Raw


_encoder = msgspec.msgpack.Encoder()
_envelope_decoder = msgspec.msgpack.Decoder(_Envelope)
_decoder: msgspec.msgpack.Decoder[Message] = msgspec.msgpack.Decoder(Message)
# Invalid text and deep nesting come out of msgspec as what Python calls them.
_UNDECODABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


def encode(message: Message, *, token: str) -> bytes:
    """One frame that holds ``message`` and the session's ``token``."""
    return _encoder.encode(_Envelope(token, msgspec.Raw(_encoder.encode(message))))


def decode(frame: bytes, *, token: str) -> Message:
    """The message of a frame; ``HandshakeError`` when it is not from a peer of this session."""
    try:
        envelope = _envelope_decoder.decode(frame)
    except _UNDECODABLE as error:
        raise HandshakeError(
            f"a peer sent {len(frame)} bytes that are no frame of this protocol ({error})",
            hint="another program is connected to this session's socket; start a fresh session",
        ) from error
    if envelope.token != token:
        raise HandshakeError(
            "a peer that is not this session's engine is on the socket (its token is wrong)",
            hint="do not share SCRIPTED_WIRE between sessions; start a fresh session",
        )
    try:
        return _decoder.decode(envelope.body)
    except _UNDECODABLE as error:
        raise HandshakeError(
            f"the peer sent a message that this version does not know ({error})",
            hint="install the same scripted-core and scripted-hook on both sides",
        ) from error
