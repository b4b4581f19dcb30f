"""Control operations: what a script posts to the engine beside requests.

Each rides the engine's own inbox and rank broadcast, so that every rank applies it in the same
iteration, in the order in which the script posted them.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Any

import msgspec

from scripted_core.views import PauseMode, Side


class Pause(msgspec.Struct, frozen=True, tag=True):
    """Stop making progress; see :class:`~scripted_core.views.PauseMode`."""

    mode: PauseMode


class Continue(msgspec.Struct, frozen=True, tag=True):
    """Undo a pause."""

    torch_empty_cache: bool = False


class Abort(msgspec.Struct, frozen=True, tag=True):
    """End exactly this request."""

    rid: str


class AbortAll(msgspec.Struct, frozen=True, tag=True):
    """End every request."""


class Flush(msgspec.Struct, frozen=True, tag=True):
    """Empty the prefix tree, if the engine is idle."""


class Evict(msgspec.Struct, frozen=True, tag=True):
    """Drop unlocked nodes of the prefix tree: all, or the subtree below ``prefix_tokens``."""

    prefix_tokens: tuple[int, ...] | None = None


class Exhaust(msgspec.Struct, frozen=True, tag=True):
    """Run the exhauster called ``name`` with ``params``."""

    name: str
    params: dict[str, Any]


class ReleaseHeld(msgspec.Struct, frozen=True, tag=True):
    """Give back everything that exhausters hold."""


class OnSide(msgspec.Struct, frozen=True, tag=True):
    """Do ``op`` on one engine of a prefill/decode pair, and leave the other alone."""

    side: Side
    op: Pause | Continue | Abort | AbortAll | Flush


class TransferAction(StrEnum):
    """What a script does to the KV transfer of a prefill/decode pair."""

    HOLD = "hold"
    RESUME = "resume"
    STEP = "step"
    DELAY = "delay"
    REORDER = "reorder"
    DROP = "drop"
    DUPLICATE = "duplicate"


class Transfer(msgspec.Struct, frozen=True, tag=True):
    """Interfere with pending KV chunks, named by their numbers.

    ``count`` is how many chunks a step delivers, or how many iterations a delay or a duplicate takes.
    """

    action: TransferAction
    chunks: tuple[int, ...] = ()
    count: int = 0


EngineOp = Pause | Continue | Abort | AbortAll | Flush
"""Operations that the engine itself knows."""

MemoryOp = Evict | Exhaust | ReleaseHeld
"""Operations on memory that the hook applies on every rank."""

ControlOp = EngineOp | MemoryOp

PairOp = OnSide | Transfer
"""Operations on a prefill/decode pair, which a single engine never sees."""


class ControlReceipt:
    """What became of a posted operation: ``ok`` is ``None`` until that is known.

    After the coming iteration it is known. Only a flush can end with ``False``; for any other operation
    an engine that sends no replies says ``True`` as soon as it is in the inbox.
    """

    def __init__(self, op: ControlOp | PairOp) -> None:
        self.op = op
        self.ok: bool | None = None
        self.message = ""

    def settle(self, ok: bool, message: str = "") -> None:
        """Record the outcome; the first one stays."""
        if self.ok is None:
            self.ok = ok
            self.message = message

    def __repr__(self) -> str:
        return f"ControlReceipt({self.op!r}, ok={self.ok!r}, message={self.message!r})"
