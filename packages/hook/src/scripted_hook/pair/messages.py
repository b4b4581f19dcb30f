"""What the schedulers of a pair of servers tell each other of a script: msgspec structs."""

from __future__ import annotations

from typing import Any

import msgspec
from scripted_core.ops import (
    Abort,
    AbortAll,
    Continue,
    Evict,
    Exhaust,
    Flush,
    Pause,
    ReleaseHeld,
)
from scripted_registry import Violation

from scripted_hook.adapter import BatchFacts
from scripted_hook.pair.views import SideView


class Hold(msgspec.Struct, frozen=True, tag=True):
    """A script takes the engine: run nothing any more without being told; answered by a report."""


class Expect(msgspec.Struct, frozen=True, tag=True):
    """A request of the script's own is about to be sent."""

    rid: str


class AwaitArrival(msgspec.Struct, frozen=True, tag=True):
    """Say when that request is in the inbox, with an ``Arrived``."""

    rid: str


class NotComing(msgspec.Struct, frozen=True, tag=True):
    """It has been refused: it is not to be waited for any more."""

    rid: str


class Posted(msgspec.Struct, frozen=True):
    """An operation, numbered so that its outcome finds the receipt."""

    number: int
    op: Pause | Continue | Abort | AbortAll | Flush | Evict | Exhaust | ReleaseHeld


class Iterate(msgspec.Struct, frozen=True, tag=True):
    """Apply ``ops``, run one iteration, and report.

    ``received`` is how many messages of the decode engine have to be in before, where it counts them.
    """

    ops: tuple[Posted, ...]
    check_invariants: bool
    received: int = 0


class Release(msgspec.Struct, frozen=True, tag=True):
    """The script is over: undo what it left, and run free."""


ToPrefill = Hold | Expect | AwaitArrival | NotComing | Iterate | Release


class Settled(msgspec.Struct, frozen=True):
    """The outcome of a posted operation."""

    number: int
    ok: bool
    message: str


class Failure(msgspec.Struct, frozen=True):
    """An operation on memory that could not be applied: an error of our own tree."""

    code: str
    message: str
    hint: str | None


class Report(msgspec.Struct, frozen=True, tag=True):
    """An iteration is over, or the engine has been taken hold of."""

    pid: int
    view: SideView
    batches: tuple[BatchFacts, ...] = ()
    violations: tuple[Violation, ...] = ()
    settled: tuple[Settled, ...] = ()
    failure: Failure | None = None


class Arrived(msgspec.Struct, frozen=True, tag=True):
    """That request is in the inbox."""

    rid: str


ToDecode = Report | Arrived

_encoder = msgspec.msgpack.Encoder()
_prefill_decoder: msgspec.msgpack.Decoder[ToPrefill] = msgspec.msgpack.Decoder(ToPrefill)
_decode_decoder: msgspec.msgpack.Decoder[ToDecode] = msgspec.msgpack.Decoder(ToDecode)


def send(socket: Any, message: ToPrefill | ToDecode, *, token: str) -> None:
    """Send to the other scheduler, without waiting for it."""
    socket.send_multipart([token.encode(), _encoder.encode(message)])


def for_prefill(frames: list[bytes], *, token: str) -> ToPrefill | None:
    """The message in frames of the decode scheduler; ``None`` from a stranger."""
    return _prefill_decoder.decode(frames[1]) if _is_ours(frames, token) else None


def for_decode(frames: list[bytes], *, token: str) -> ToDecode | None:
    """The message in frames of the prefill scheduler; ``None`` from a stranger."""
    return _decode_decoder.decode(frames[1]) if _is_ours(frames, token) else None


def _is_ours(frames: list[bytes], token: str) -> bool:
    return len(frames) == 2 and frames[0] == token.encode()
