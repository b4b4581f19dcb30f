"""Engine arguments of a model with sliding windows, with a window pool that a few requests fill."""

from __future__ import annotations

import json
from typing import Any

from scripted_chunked import SMALL_SWA_MODEL, base_engine_kwargs

CHUNK_TOKENS = 64
"""Tokens of one prefill chunk."""
WINDOW_TOKENS = 32
"""Tokens that a layer with a window sees, on every engine's ``SMALL_SWA_MODEL``."""
CONTEXT_TOKENS = 1024
"""Tokens that prompt and output of a request can have together."""
_POOL_TOKENS = 8192
_WINDOW_POOL_RATIO = 0.0375
"""307 window slots: nine windows, or a chunk, the window before it, and six windows."""
_RUNNING_REQUESTS = 8
# SGLang gives window slots back 128 tokens at a time, which is half of so small a pool; the reference
# engine, which gives each back when it has left the window, takes no notice of it.
_EACH_SLOT_AT_ONCE = {"SGLANG_SWA_EVICTION_INTERVAL": "1"}
_TRAINED_LAYERS = ("sliding_attention", "full_attention", "sliding_attention")


def sliding_window_kwargs(**overrides: Any) -> dict[str, Any]:
    """A full and a window pool with pages of one token; ``overrides`` win.

    Tests that share these arguments share one engine, so override only what a test is about.
    """
    chosen: dict[str, Any] = {
        "model_path": SMALL_SWA_MODEL,
        "chunked_prefill_size": CHUNK_TOKENS,
        "max_total_tokens": _POOL_TOKENS,
        "swa_full_tokens_ratio": _WINDOW_POOL_RATIO,
        "max_running_requests": _RUNNING_REQUESTS,
        "context_length": CONTEXT_TOKENS,
        "env": _EACH_SLOT_AT_ONCE,
        **overrides,
    }
    return base_engine_kwargs(**chosen)


def trained_window_kwargs(**overrides: Any) -> dict[str, Any]:
    """The same with the trained checkpoint, whose layers see a window, all, and a window again."""
    changes = {
        "use_sliding_window": True,
        "sliding_window": WINDOW_TOKENS,
        "layer_types": list(_TRAINED_LAYERS),
    }
    chosen = {"model_path": "tiny", "json_model_override_args": json.dumps(changes), **overrides}
    return sliding_window_kwargs(**chosen)
