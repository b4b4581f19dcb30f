"""Prefill/decode pairs for scripted: engine arguments, stages of a request's life, and scripts.

pytest loads a module of this package in every run, so that the rest is imported when it is used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any, Final

from scripted_backend_pd._version import __version__

if TYPE_CHECKING:
    from scripted_backend_pd.arguments import CHUNK_TOKENS, pair_kwargs
    from scripted_backend_pd.pair_client import PdPair, post_parallel_generate
    from scripted_backend_pd.parity import (
        Prompt,
        Response,
        outputs_of_one_engine,
        responses_of,
        single_device_kwargs_of,
    )
    from scripted_backend_pd.stages import STAGES, advance_to_pd_stage

_HOMES: Final = {
    "CHUNK_TOKENS": "arguments",
    "PdPair": "pair_client",
    "Prompt": "parity",
    "Response": "parity",
    "STAGES": "stages",
    "advance_to_pd_stage": "stages",
    "outputs_of_one_engine": "parity",
    "pair_kwargs": "arguments",
    "post_parallel_generate": "pair_client",
    "responses_of": "parity",
    "single_device_kwargs_of": "parity",
}

__all__ = [
    "CHUNK_TOKENS",
    "STAGES",
    "PdPair",
    "Prompt",
    "Response",
    "__version__",
    "advance_to_pd_stage",
    "outputs_of_one_engine",
    "pair_kwargs",
    "post_parallel_generate",
    "responses_of",
    "single_device_kwargs_of",
]


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"scripted_backend_pd.{home}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
