"""What arrives in the scheduler's inbox. Messages take effect in their order, when received."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING

from scripted_reference.request import SamplingParams

if TYPE_CHECKING:
    from scripted_reference.scheduler import Scheduler


class PauseMode(StrEnum):
    """What a pause does with the requests that have memory."""

    RETRACT = "retract"
    IN_PLACE = "in_place"


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerateReq:
    """Generate from `input_ids`. Let `Scheduler.validate` see it before it goes into the inbox."""

    rid: str
    input_ids: Sequence[int]
    sampling_params: SamplingParams = field(default_factory=SamplingParams)
    priority: int | None = None


@dataclass(frozen=True, slots=True)
class AbortReq:
    """Abort exactly this request, or with `rid=None` all that arrived before this message."""

    rid: str | None
    message: str = "aborted"


@dataclass(frozen=True, slots=True)
class PauseReq:
    """Pause."""

    mode: PauseMode


@dataclass(frozen=True, slots=True)
class ContinueReq:
    """Resume."""


@dataclass(frozen=True, slots=True)
class FlushCacheReq:
    """Empty the prefix tree if the engine is idle, and tell `reply` whether it was."""

    reply: Callable[[bool], None]


@dataclass(frozen=True, slots=True)
class CallReq:
    """Call `fn` with the scheduler: an operation on memory that keeps its place in the inbox."""

    fn: Callable[[Scheduler], None]


Message = GenerateReq | AbortReq | PauseReq | ContinueReq | FlushCacheReq | CallReq
