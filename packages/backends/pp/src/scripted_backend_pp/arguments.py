"""Engine arguments of pipelines, small enough that a script can fill every pool of every stage."""

from __future__ import annotations

from typing import Any

from scripted_chunked import base_engine_kwargs

CHUNK_TOKENS = 64
"""Tokens of one prefill chunk."""
CONTEXT_TOKENS = 1024
"""Tokens that prompt and output of a request can have together."""
_POOL_TOKENS = 4096
_RUNNING_REQUESTS = 8


def pipeline_kwargs(**overrides: Any) -> dict[str, Any]:
    """Two stages, which every engine can run on two cores; ``overrides`` win.

    Tests that share these arguments share one engine, so override only what a test is about.
    """
    chosen: dict[str, Any] = {
        "pp_size": 2,
        "chunked_prefill_size": CHUNK_TOKENS,
        "max_total_tokens": _POOL_TOKENS,
        "max_running_requests": _RUNNING_REQUESTS,
        "context_length": CONTEXT_TOKENS,
        **overrides,
    }
    return base_engine_kwargs(**chosen)


def deep_pipeline_kwargs(**overrides: Any) -> dict[str, Any]:
    """Four stages with two more microbatch slots than stages: of SGLang's, four GPUs."""
    return pipeline_kwargs(**{"pp_size": 4, "pp_async_batch_depth": 2, **overrides})
