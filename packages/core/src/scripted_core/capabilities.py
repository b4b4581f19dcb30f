"""What an engine may or may not be able to do, as a closed set."""

from __future__ import annotations

from enum import StrEnum


class Capability(StrEnum):
    """One ability of an engine; a script that needs a missing one is skipped with that reason."""

    CHUNKED_PREFILL = "chunked_prefill"
    RETRACT = "retract"
    PAUSE_IN_PLACE = "pause_in_place"
    PREFIX_CACHE = "prefix_cache"
    LOCK_REFS = "lock_refs"
    ROW_POOL = "row_pool"
    SWA = "swa"
    PP = "pp"
    PD_PREFILL = "pd_prefill"
    PD_DECODE = "pd_decode"
    SPEC_DECODE = "spec_decode"
    PRIORITY = "priority"
    LOGPROBS = "logprobs"
    LORA = "lora"
    DP = "dp"
    OVERLAP = "overlap"
    SGLANG_NAMES = "sglang_names"
    """``t.scheduler`` has SGLang's attribute names (``waiting_queue``, ``running_batch``, …)."""
    PROCESSES = "processes"
    """The engine runs in processes of its own, which can be killed."""
    HTTP = "http"
    """Requests travel through an HTTP front."""
    LENGTH_END_UNCACHED = "length_end_uncached"
    """The prefix tree never holds the KV of the token with which a request ended by length."""
    CLOSED_FORM_OUTPUT = "closed_form_output"
    """The right output of a prompt is known without running the engine."""
