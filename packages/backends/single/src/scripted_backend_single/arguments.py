"""Engine arguments of one device, small enough that a script can fill every pool."""

from __future__ import annotations

from typing import Any

from scripted_chunked import base_engine_kwargs

CHUNK_TOKENS = 64
"""Tokens of one prefill chunk."""
CONTEXT_TOKENS = 1024
"""Tokens that prompt and output of a request can have together."""
PAGE_TOKENS = 16
"""Tokens of one KV page in the paged configuration."""
_POOL_TOKENS = 4096
_RUNNING_REQUESTS = 8


def single_device_kwargs(**overrides: Any) -> dict[str, Any]:
    """One device with pages of one token; ``overrides`` win.

    Tests that share these arguments share one engine, so override only what a test is about.
    """
    chosen: dict[str, Any] = {
        "chunked_prefill_size": CHUNK_TOKENS,
        "max_total_tokens": _POOL_TOKENS,
        "max_running_requests": _RUNNING_REQUESTS,
        "context_length": CONTEXT_TOKENS,
        **overrides,
    }
    return base_engine_kwargs(**chosen)


def paged_device_kwargs(**overrides: Any) -> dict[str, Any]:
    """The same device with pages of ``PAGE_TOKENS`` tokens; ``overrides`` win."""
    return single_device_kwargs(**{"page_size": PAGE_TOKENS, **overrides})
