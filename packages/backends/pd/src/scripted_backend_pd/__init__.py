"""Prefill/decode pairs for scripted: engine arguments, stages of a request's life, and scripts."""

from __future__ import annotations

from scripted_backend_pd._version import __version__
from scripted_backend_pd.arguments import CHUNK_TOKENS, pair_kwargs
from scripted_backend_pd.pair_client import PdPair, post_parallel_generate
from scripted_backend_pd.parity import Prompt, Response, responses_of, single_device_kwargs_of
from scripted_backend_pd.stages import STAGES, advance_to_pd_stage

__all__ = [
    "CHUNK_TOKENS",
    "STAGES",
    "PdPair",
    "Prompt",
    "Response",
    "__version__",
    "advance_to_pd_stage",
    "pair_kwargs",
    "post_parallel_generate",
    "responses_of",
    "single_device_kwargs_of",
]
