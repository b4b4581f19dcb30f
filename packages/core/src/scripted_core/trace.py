"""What happened iteration by iteration, as data that a view or a reporter can draw."""

from __future__ import annotations

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


class StepTrace(msgspec.Struct, frozen=True):
    """One iteration: its batch, each request's state, free KV pages, and what was posted before."""

    step: int
    mode: str
    states: dict[str, RequestState]
    free_pages: int
    total_pages: int
    operations: tuple[str, ...] = ()
