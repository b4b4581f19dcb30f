"""All checks, and the engine that they are written for."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final

from scripted_core.conformance.check import Check
from scripted_core.conformance.scripts import (
    aborts,
    iterations,
    looking,
    memory,
    pauses,
    requests,
)

DEFAULT_ENGINE_KWARGS: Final[Mapping[str, Any]] = MappingProxyType(
    {
        "model_path": "Qwen/Qwen3-0.6B",
        "chunked_prefill_size": 64,
        "max_total_tokens": 4096,
        "max_running_requests": 8,
        "context_length": 1024,
    }
)
"""SGLang's argument names; sizes that a script can fill. An engine puts a small model in place of a
model that it does not have."""

CHECKS: Final[tuple[Check, ...]] = (
    *iterations.check.checks,
    *requests.check.checks,
    *pauses.check.checks,
    *aborts.check.checks,
    *looking.check.checks,
    # Its last one ends an engine that takes for granted that a chunk it has begun with finds room.
    *memory.check.checks,
)
