"""Pipeline-parallel topology for scripted: engine arguments, CI stages and the steps of its scripts."""

from __future__ import annotations

from scripted_backend_pp._version import __version__
from scripted_backend_pp.arguments import (
    CHUNK_TOKENS,
    CONTEXT_TOKENS,
    deep_pipeline_kwargs,
    pipeline_kwargs,
)
from scripted_backend_pp.slots import (
    launch_whole_prompt,
    require_ranks_alike,
    run_turns,
    slots_of,
    until_drained,
)

__all__ = [
    "CHUNK_TOKENS",
    "CONTEXT_TOKENS",
    "__version__",
    "deep_pipeline_kwargs",
    "launch_whole_prompt",
    "pipeline_kwargs",
    "require_ranks_alike",
    "run_turns",
    "slots_of",
    "until_drained",
]
