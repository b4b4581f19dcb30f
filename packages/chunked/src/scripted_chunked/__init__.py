"""Generators that take a request to an exact point of its life."""

from __future__ import annotations

from scripted_chunked._version import __version__
from scripted_chunked.advance import (
    LIFECYCLE_STAGES,
    advance_to_decode_step,
    advance_to_lifecycle_stage,
    advance_to_nth_chunk,
)
from scripted_chunked.engine import (
    DEFAULT_CHUNK_SIZE,
    DEFAULT_MAX_STEPS,
    SMALL_MODEL,
    SMALL_SWA_MODEL,
    base_engine_kwargs,
)
from scripted_chunked.pools import exhaust_row_pool, warmup_radix
from scripted_chunked.steps import (
    flush,
    require_at_rest,
    run_steps,
    settle,
    undisturbed_output,
)
from scripted_chunked.until import (
    run_until,
    run_until_all_finished,
    run_until_finished,
    run_until_seen_everywhere,
)

__all__ = [
    "DEFAULT_CHUNK_SIZE",
    "DEFAULT_MAX_STEPS",
    "LIFECYCLE_STAGES",
    "SMALL_MODEL",
    "SMALL_SWA_MODEL",
    "__version__",
    "advance_to_decode_step",
    "advance_to_lifecycle_stage",
    "advance_to_nth_chunk",
    "base_engine_kwargs",
    "exhaust_row_pool",
    "flush",
    "require_at_rest",
    "run_steps",
    "run_until",
    "run_until_all_finished",
    "run_until_finished",
    "run_until_seen_everywhere",
    "settle",
    "undisturbed_output",
    "warmup_radix",
]
