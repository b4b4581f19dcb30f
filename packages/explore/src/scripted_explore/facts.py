"""What the arguments of an engine say about how it has to behave."""

from __future__ import annotations

import json
from collections.abc import Mapping
from enum import StrEnum
from typing import Any

import msgspec


class Avoid(StrEnum):
    """What is left out because an engine is known not to survive it (docs/findings)."""

    CHUNK_UNDER_PRESSURE = "chunk-under-pressure"
    """Holding memory while a prompt of several chunks is under way."""


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """What a program's rules need to know and no view says.

    ``slots`` are the microbatch slots of a pipeline, 1 without one; ``slot_requests`` how many requests
    one of them can have; ``overlap`` whether results are an iteration late; ``window_tokens`` the
    sliding window; ``fifo`` whether requests are served in the order of arrival.
    """

    chunk_tokens: int = 64
    context_tokens: int = 256
    slots: int = 1
    slot_requests: int | None = None
    overlap: bool = False
    window_tokens: int | None = None
    fifo: bool = True
    replicas: int = 1
    avoid: frozenset[Avoid] = frozenset()

    @property
    def lag(self) -> int:
        """Iterations after which what was in flight at a call has been processed."""
        return self.slots - 1 if self.slots > 1 else int(self.overlap)


def facts_of(
    kwargs: Mapping[str, Any], *, overlap: bool, avoid: frozenset[Avoid] = frozenset()
) -> Facts:
    """Read an engine's arguments (SGLang's names)."""
    stages = int(kwargs.get("pp_size", 1))
    rows = int(kwargs.get("max_running_requests", 8))
    overrides = kwargs.get("json_model_override_args") or {}
    if isinstance(overrides, str):
        overrides = json.loads(overrides)
    window = overrides.get("sliding_window") or _WINDOWS.get(str(kwargs.get("model_path")))
    return Facts(
        chunk_tokens=int(kwargs.get("chunked_prefill_size", 64)),
        context_tokens=int(kwargs.get("context_length", 256)),
        slots=stages + int(kwargs.get("pp_async_batch_depth", 0)) if stages > 1 else 1,
        slot_requests=(int(kwargs.get("pp_max_micro_batch_size") or 0) or max(rows // stages, 1))
        if stages > 1
        else None,
        overlap=overlap,
        window_tokens=window,
        fifo=kwargs.get("schedule_policy", "fcfs") == "fcfs"
        and kwargs.get("disaggregation_mode") != "pair",
        replicas=int(kwargs.get("dp_size", 1)),
        avoid=avoid,
    )


_WINDOWS = {"scripted/small-swa": 32}
