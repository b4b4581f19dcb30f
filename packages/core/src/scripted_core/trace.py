"""What happened iteration by iteration, as data that a view or a reporter can draw."""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum

import msgspec


class RequestState(StrEnum):
    """What one request did in one iteration."""

    WAITING = "waiting"
    CHUNK = "chunk"
    """A chunk of its prompt ran, and more is to come."""
    PREFILL = "prefill"
    """The rest of its prompt ran."""
    DECODE = "decode"
    RUNNING = "running"
    """It is in the running batch, and no forward of it ran."""
    RETRACTED = "retracted"
    PAUSED = "paused"
    FINISHED = "finished"
    ABORTED = "aborted"


class RequestProgress(msgspec.Struct, frozen=True, array_like=True):
    """How far one request is, in tokens: prompt in the KV pool, prompt in all, output so far."""

    computed_tokens: int
    prompt_len: int
    output_len: int


class StepTrace(msgspec.Struct, frozen=True):
    """One iteration: its batch, each request's state and progress, the KV pool, what was posted.

    ``step`` counts from 1, ``operations`` were posted before the iteration. Pages are those of the
    pool that every engine has; whatever is not free, evictable or held is in use. ``batch_rids`` are
    the requests of the iteration's batches.
    """

    step: int
    mode: str
    states: dict[str, RequestState]
    free_pages: int
    total_pages: int
    operations: tuple[str, ...] = ()
    evictable_pages: int = 0
    held_pages: int = 0
    batch_rids: tuple[str, ...] = ()
    progress: dict[str, RequestProgress] = {}

    @property
    def used_pages(self) -> int:
        """Pages that are neither free nor evictable nor held."""
        return max(0, self.total_pages - self.free_pages - self.evictable_pages - self.held_pages)


StepListener = Callable[[StepTrace], None]
"""Told of each iteration of a script soon after it has ended."""


class ChecksDone(msgspec.Struct, frozen=True):
    """What the runtime checked of a script, besides the script's own asserts.

    ``invariants`` (in words) held after each of ``iterations``; at the end ``clients`` requests had
    received exactly the ``client_tokens`` tokens that the scheduler produced for them. ``refused``
    are the requests that the engine did not take, each with its reason: they ran nowhere.
    """

    invariants: tuple[str, ...] = ()
    iterations: int = 0
    clients: int = 0
    client_tokens: int = 0
    refused: tuple[str, ...] = ()


NOTHING_CHECKED = ChecksDone()
