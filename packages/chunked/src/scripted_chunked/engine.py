"""Engine arguments that the chunked-prefill scripts share."""

from __future__ import annotations

from typing import Any

DEFAULT_CHUNK_SIZE: int = 256
"""Tokens of one prefill chunk."""
DEFAULT_MAX_STEPS: int = 400
"""Iterations after which a wait gives up."""
SMALL_MODEL: str = "Qwen/Qwen3-0.6B"
"""A small real model; an engine without a model hub puts a tiny one of its own in its place."""

SMALL_SWA_MODEL: str = "scripted/small-swa"
"""A small model with sliding windows in some of its layers: each engine has one of its own."""


def base_engine_kwargs(
    *,
    model_path: str = SMALL_MODEL,
    chunked_prefill_size: int = DEFAULT_CHUNK_SIZE,
    **overrides: Any,
) -> dict[str, Any]:
    """Engine keyword arguments with a small model and a chunk size; ``overrides`` win."""
    return {
        "model_path": model_path,
        "chunked_prefill_size": chunked_prefill_size,
        **overrides,
    }
