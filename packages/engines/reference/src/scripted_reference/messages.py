"""What arrives in the scheduler's inbox. Messages take effect in their order, when received."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING

from scripted_reference.bootstrap import Bootstrap
from scripted_reference.request import SamplingParams

if TYPE_CHECKING:
    from scripted_core.ops import MemoryOp
    from scripted_hook.ranks import RankNotice

    from scripted_reference.engine import Engine
    from scripted_reference.scheduler import Scheduler


class PauseMode(StrEnum):
    """What a pause does with the requests that have memory."""

    RETRACT = "retract"
    IN_PLACE = "in_place"


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerateReq:
    """Generate from `input_ids`. Let `Scheduler.validate` see it before it goes into the inbox.

    Attributes:
        logprob_start_len: with `return_logprob`, the first prompt position whose log probability is
            wanted; -1, as in SGLang, is none of the prompt.
        top_logprobs_num: with `return_logprob`, how many of the likeliest tokens to name at each.
        lora_path: name of the LoRA adapter to generate with, one of the engine's `lora_paths`.
        dp_rank: the data-parallel replica to go to; `None` lets the engine choose.
        bootstrap: where the servers of a pair meet for it; an engine that does both passes it over.
    """

    rid: str
    input_ids: Sequence[int]
    sampling_params: SamplingParams = field(default_factory=SamplingParams)
    priority: int | None = None
    return_logprob: bool = False
    logprob_start_len: int = -1
    top_logprobs_num: int = 0
    lora_path: str | None = None
    dp_rank: int | None = None
    bootstrap: Bootstrap | None = None


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


@dataclass(frozen=True, slots=True)
class RelayedReq(CallReq):
    """Call `fn` here, and have `relay` done by the engine's other processes in the same iteration."""

    relay: MemoryOp | RankNotice


@dataclass(frozen=True, slots=True)
class EngineReq:
    """Call `fn` with the whole engine, once: what concerns more than each scheduler by itself."""

    fn: Callable[[Engine], None]


Message = GenerateReq | AbortReq | PauseReq | ContinueReq | FlushCacheReq | CallReq
"""What a scheduler takes."""
