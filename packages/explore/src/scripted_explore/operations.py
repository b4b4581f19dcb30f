"""Operations as data: what a person could do to an engine between two iterations.

Each is a frozen struct of whole numbers, so that it can be drawn, written down, sent to an engine
process, and made smaller. Which request an operation means is a number too, taken modulo the live
ones, so that an operation still means something when those before it are left out.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

import msgspec
from scripted_core.capabilities import Capability
from scripted_core.ops import TransferAction
from scripted_core.views import PauseMode, Side

Count = Annotated[int, msgspec.Meta(ge=0, le=1_000_000)]
MOST_TOKENS = 256
"""Of either part of a prompt."""
PartTokens = Annotated[int, msgspec.Meta(ge=0, le=MOST_TOKENS)]


class Op(msgspec.Struct, frozen=True, tag=True):
    """Any operation."""


class Start(Op, frozen=True, tag=True):
    """Start a request.

    Its prompt is the first ``shared`` tokens of ``family``, then ``own_tokens`` tokens of variant
    ``own``: prompts of a family share a prefix, equal fields make twins. With ``stop_at`` the
    request also stops at what is its so many-th token when it runs alone; 0 is no stop token.
    """

    family: Count
    shared: PartTokens
    own: Count
    own_tokens: PartTokens
    new_tokens: Count
    priority: int = 0
    stop_at: Count = 0
    rank: Count = 0
    logprobs: Count = 0


class Steps(Op, frozen=True, tag=True):
    """So many iterations."""

    count: Count


class Settle(Op, frozen=True, tag=True):
    """Iterations until the engine is fully idle, or so many have passed that it will not be."""


class UntilEnd(Op, frozen=True, tag=True):
    """Iterations until a request ends, or with ``all_of_them`` each has, or so many have passed.

    What comes next meets that end: with overlap, the last batch is still in flight.
    """

    all_of_them: Count = 0


class Pause(Op, frozen=True, tag=True):
    """Pause the engine."""

    mode: PauseMode


class Continue(Op, frozen=True, tag=True):
    """Undo a pause."""


class Abort(Op, frozen=True, tag=True):
    """Abort one live request."""

    which: Count


class AbortNobody(Op, frozen=True, tag=True):
    """Abort a rid that no request has, and with which those of all requests begin."""


class AbortAll(Op, frozen=True, tag=True):
    """Abort every request."""


class Flush(Op, frozen=True, tag=True):
    """Flush the prefix tree."""


class EvictAll(Op, frozen=True, tag=True):
    """Evict what nobody needs from the prefix tree."""


class EvictPrefix(Op, frozen=True, tag=True):
    """Evict what begins with the prompt of a request with these fields."""

    family: Count
    shared: PartTokens
    own: Count
    own_tokens: PartTokens


class ExhaustKv(Op, frozen=True, tag=True):
    """Hold KV pages of a pool (its number in the order of names) until so many can be had."""

    leave_pages: Count
    pool: Count = 0


class ExhaustRows(Op, frozen=True, tag=True):
    """Hold request rows."""

    leave_rows: Count


class ExhaustLocks(Op, frozen=True, tag=True):
    """Lock prefix-tree nodes."""

    leave_refs: Count


class Release(Op, frozen=True, tag=True):
    """Give back all that is held."""


class PauseSide(Op, frozen=True, tag=True):
    """Pause one engine of a prefill/decode pair."""

    side: Side
    mode: PauseMode


class ContinueSide(Op, frozen=True, tag=True):
    """Undo a pause of one engine of a pair."""

    side: Side


class AbortSide(Op, frozen=True, tag=True):
    """Abort a live request in one engine of a pair."""

    side: Side
    which: Count


class MoveKv(Op, frozen=True, tag=True):
    """Do something to the KV transfer of a pair: ``which`` names a pending chunk, where one is meant."""

    action: TransferAction
    which: int = 0
    count: int = 1


AnyOp = (
    Start
    | Steps
    | Settle
    | UntilEnd
    | Pause
    | Continue
    | Abort
    | AbortNobody
    | AbortAll
    | Flush
    | EvictAll
    | EvictPrefix
    | ExhaustKv
    | ExhaustRows
    | ExhaustLocks
    | Release
    | PauseSide
    | ContinueSide
    | AbortSide
    | MoveKv
)

_PAIR = (Capability.PD_PREFILL, Capability.PD_DECODE)

REQUIRES: dict[type[Op], tuple[Capability, ...]] = {
    Flush: (Capability.PREFIX_CACHE,),
    EvictAll: (Capability.PREFIX_CACHE,),
    EvictPrefix: (Capability.PREFIX_CACHE,),
    ExhaustRows: (Capability.ROW_POOL,),
    ExhaustLocks: (Capability.LOCK_REFS,),
    PauseSide: _PAIR,
    ContinueSide: _PAIR,
    AbortSide: _PAIR,
    MoveKv: _PAIR,
}
"""What an engine has to be able to do for an operation; nothing for those that are not here."""

MODE_REQUIRES: dict[PauseMode, Capability] = {
    PauseMode.RETRACT: Capability.RETRACT,
    PauseMode.IN_PLACE: Capability.PAUSE_IN_PLACE,
}


def is_possible(op: Op, capabilities: frozenset[Capability]) -> bool:
    """Whether an engine with these capabilities can be asked for ``op``."""
    if isinstance(op, (Pause, PauseSide)) and MODE_REQUIRES[op.mode] not in capabilities:
        return False
    return all(one in capabilities for one in REQUIRES.get(type(op), ()))


def as_code(op: Op, *, defaults: bool = False) -> str:
    """``op`` as Python source; fields that have their default value only with ``defaults``."""
    fields = []
    for field in msgspec.structs.fields(type(op)):
        value = getattr(op, field.name)
        if defaults or field.required or value != field.default:
            fields.append(f"{field.name}={_literal(value)}")
    return f"{type(op).__name__}({', '.join(fields)})"


def _literal(value: Any) -> str:
    names: dict[type, Callable[[Any], str]] = {
        PauseMode: lambda one: f"PauseMode.{one.name}",
        Side: lambda one: f"Side.{one.name}",
        TransferAction: lambda one: f"TransferAction.{one.name}",
    }
    return names.get(type(value), repr)(value)
