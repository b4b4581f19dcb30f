"""Single-device topology for scripted: engine arguments, CI stages and steps for scripts."""

from __future__ import annotations

from scripted_backend_single._version import __version__
from scripted_backend_single.arguments import (
    CHUNK_TOKENS,
    CONTEXT_TOKENS,
    PAGE_TOKENS,
    paged_device_kwargs,
    single_device_kwargs,
)
from scripted_backend_single.steps import (
    flush,
    require_at_rest,
    run_steps,
    settle,
    undisturbed_output,
)

__all__ = [
    "CHUNK_TOKENS",
    "CONTEXT_TOKENS",
    "PAGE_TOKENS",
    "__version__",
    "flush",
    "paged_device_kwargs",
    "require_at_rest",
    "run_steps",
    "settle",
    "single_device_kwargs",
    "undisturbed_output",
]
