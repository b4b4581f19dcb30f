"""What is said over TCP between a test client and the gate of an engine that it attaches to.

Beside these there are the messages of a session, which the gate passes on. There is no token: both
ends have proved their keys before the first message.
"""

from __future__ import annotations

from typing import Any

import msgspec

from scripted_core.errors import HandshakeError
from scripted_core.wire.messages import (
    HookReady,
    OutOfBandError,
    RunScript,
    ScriptFailed,
    ScriptSucceeded,
    StepsEnded,
)


class Attach(msgspec.Struct, frozen=True, tag=True):
    """May I? ``client`` is who asks, for a person: user, host, process."""

    protocol_version: int
    client: str


class Attached(msgspec.Struct, frozen=True, tag=True):
    """The engine is yours until you detach; ``host`` is the machine that it runs on."""

    ready: HookReady
    host: str


class AttachRefused(msgspec.Struct, frozen=True, tag=True):
    """The engine is not yours: an error of our tree. ``later`` says that asking again may help."""

    code: str
    message: str
    hint: str = ""
    later: bool = False


class Detach(msgspec.Struct, frozen=True, tag=True):
    """The client goes; a script of it that still runs is abandoned."""


class Progress(msgspec.Struct, frozen=True, tag=True):
    """Where the running script is, as on the progress board of a session."""

    ticks: int
    step: int


class StacksWanted(msgspec.Struct, frozen=True, tag=True):
    """What is every process of the engine doing?"""


class Stacks(msgspec.Struct, frozen=True, tag=True):
    """Every thread's stack of every process of the engine that carries our hook."""

    text: str


class EngineEnded(msgspec.Struct, frozen=True, tag=True):
    """Processes of the engine have ended; ``text`` says which, and how if that is known."""

    text: str


class Probe(msgspec.Struct, frozen=True, tag=True):
    """Means nothing: whether it can be sent shows the gate whether the client is there."""


ToGate = Attach | Detach | StacksWanted | RunScript
ToClient = (
    Attached
    | AttachRefused
    | Progress
    | Stacks
    | EngineEnded
    | Probe
    | StepsEnded
    | ScriptSucceeded
    | ScriptFailed
    | OutOfBandError
)

_encoder = msgspec.msgpack.Encoder()
_for_gate: msgspec.msgpack.Decoder[Any] = msgspec.msgpack.Decoder(ToGate)
_for_client: msgspec.msgpack.Decoder[Any] = msgspec.msgpack.Decoder(ToClient)
_UNDECODABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
_SAME = "install the same scripted-core and scripted-hook on both sides"


def pack(message: ToGate | ToClient) -> bytes:
    """One frame."""
    return _encoder.encode(message)


def unpack_for_gate(frame: bytes) -> ToGate:
    """What a client said; ``HandshakeError`` when it is not of this protocol."""
    return _unpack(_for_gate, frame)  # type: ignore[no-any-return]


def unpack_for_client(frame: bytes) -> ToClient:
    """What a gate said; ``HandshakeError`` when it is not of this protocol."""
    return _unpack(_for_client, frame)  # type: ignore[no-any-return]


def _unpack(decoder: msgspec.msgpack.Decoder[Any], frame: bytes) -> Any:
    try:
        return decoder.decode(frame)
    except _UNDECODABLE as error:
        raise HandshakeError(
            f"the peer sent a message that this version does not know ({error})", hint=_SAME
        ) from error
