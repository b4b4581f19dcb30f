"""Engine arguments of a prefill/decode pair, small enough that a script can fill either pool."""

from __future__ import annotations

from typing import Any

from scripted_chunked import base_engine_kwargs

CHUNK_TOKENS = 64
"""Tokens of one prefill chunk."""
_CONTEXT_TOKENS = 1024
_POOL_TOKENS = 2048
_RUNNING_REQUESTS = 8


def pair_kwargs(**overrides: Any) -> dict[str, Any]:
    """A prefill engine and a decode engine under one script; ``overrides`` win.

    What only one of them shall have goes into ``prefill_kwargs`` or ``decode_kwargs``. Tests that
    share these arguments share one pair, so override only what a test is about.
    """
    chosen: dict[str, Any] = {
        "disaggregation_mode": "pair",
        "chunked_prefill_size": CHUNK_TOKENS,
        "max_total_tokens": _POOL_TOKENS,
        "max_running_requests": _RUNNING_REQUESTS,
        "context_length": _CONTEXT_TOKENS,
        **overrides,
    }
    return base_engine_kwargs(**chosen)
