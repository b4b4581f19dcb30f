"""``EngineAdapter``: all that a new engine writes.

An adapter belongs to one scheduler process. Everything in it is called on the scheduler's own thread,
and between two iterations, so that what it reads is consistent. Only ``describe_batch`` (when a batch
goes to the model) and ``declare_held`` (after a memory operation) are called within one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

import msgspec
from scripted_core.ops import MemoryOp
from scripted_core.ports import EnginePort
from scripted_core.views import Audit, FinishReason, ForwardMode


class BatchFacts(msgspec.Struct, frozen=True):
    """One batch in neutral words: ``chunked_rids`` are those whose prompt is not complete after it."""

    mode: ForwardMode
    rids: tuple[str, ...]
    extend_rids: tuple[str, ...]
    chunked_rids: tuple[str, ...] = ()


class EngineEvents(Protocol):
    """What an adapter reports to the hook, in the iteration in which it happens."""

    def finished(self, rid: str, reason: FinishReason, output_ids: Sequence[int]) -> None:
        """A request ended; the first report of a rid counts, later ones are passed over."""
        ...

    def apply_memory_op(self, op: MemoryOp) -> None:
        """A memory operation came out of the inbox of this rank: apply it now."""
        ...


class EngineAdapter(EnginePort, Protocol):
    """The engine side of one engine, over what :class:`~scripted_core.ports.EnginePort` asks for."""

    quiesce_steps: int
    """Iterations after the last visible work in which something may still be in flight."""

    def attach(self, events: EngineEvents) -> None:
        """Start reporting to ``events``."""
        ...

    def begin_hold(self) -> None:
        """A script takes the engine: foreign requests are parked from now on."""
        ...

    def end_hold(self) -> None:
        """The script is over: parked requests go in, in their order of arrival."""
        ...

    def drive_warmup(self) -> None:
        """Whatever the engine has to do once before its first script."""
        ...

    def describe_batch(self, batch: Any) -> BatchFacts:
        """The engine's own batch object, as it is handed to the model, in neutral words."""
        ...

    def chunked_rids(self) -> tuple[str, ...]:
        """Requests whose prompt is part way through a chunked prefill."""
        ...

    def live_outputs(self) -> Iterable[tuple[str, Sequence[int]]]:
        """Rid and output tokens so far of every live request."""
        ...

    def audit(self) -> Audit:
        """Who owns each page, row and lock right now."""
        ...

    def declare_held(self, *, pages_by_pool: Mapping[str, int], rows: int) -> None:
        """Tell the engine's own leak checks what exhausters hold; those checks stay on."""
        ...

    def hooks_fired(self) -> tuple[str, ...]:
        """Names of the attachment points that have fired in this process."""
        ...

    def pids(self) -> Mapping[str, int]:
        """The engine's processes that this one knows of, by role."""
        ...

    def close(self) -> None:
        """Let go of threads and sockets."""
        ...
