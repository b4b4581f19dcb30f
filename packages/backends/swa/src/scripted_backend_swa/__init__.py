"""Sliding-window topology for scripted: engine arguments, CI stages and the steps of its scripts."""

from __future__ import annotations

from scripted_backend_swa._version import __version__
from scripted_backend_swa.arguments import (
    CHUNK_TOKENS,
    CONTEXT_TOKENS,
    WINDOW_TOKENS,
    sliding_window_kwargs,
    trained_window_kwargs,
)
from scripted_backend_swa.windows import (
    WINDOW_POOL,
    fill_window_pool,
    park_a_candidate,
    require_no_locks,
    window_pages_left,
)

__all__ = [
    "CHUNK_TOKENS",
    "CONTEXT_TOKENS",
    "WINDOW_POOL",
    "WINDOW_TOKENS",
    "__version__",
    "fill_window_pool",
    "park_a_candidate",
    "require_no_locks",
    "sliding_window_kwargs",
    "trained_window_kwargs",
    "window_pages_left",
]
