"""What a running scheduler of SGLang can do."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from scripted_core.capabilities import Capability

from scripted_sglang import _compat


def capabilities_of(
    scheduler: Any, *, version: str, pools: Collection[str]
) -> frozenset[Capability]:
    """The capabilities of a scheduler as it was started; ``pools`` are the names of its KV pools."""
    found = {
        Capability.RETRACT,
        Capability.PAUSE_IN_PLACE,
        Capability.ROW_POOL,
        Capability.LOGPROBS,
        Capability.SGLANG_NAMES,
        Capability.PROCESSES,
        Capability.HTTP,
    }
    if scheduler.chunked_prefill_size:
        found.add(Capability.CHUNKED_PREFILL)
    if not scheduler.tree_cache.disable:
        found |= {Capability.PREFIX_CACHE, Capability.LOCK_REFS}
    if "swa" in pools:
        found.add(Capability.SWA)
    if scheduler.enable_overlap:
        found.add(Capability.OVERLAP)
    if not scheduler.enable_overlap or _compat.knows_length_ends_early(version):
        found.add(Capability.LENGTH_END_UNCACHED)
    if not scheduler.spec_algorithm.is_none():
        found.add(Capability.SPEC_DECODE)
    if scheduler.enable_lora:
        found.add(Capability.LORA)
    if getattr(scheduler, "enable_priority_scheduling", False):
        found.add(Capability.PRIORITY)
    if "pp" in _compat.placement(scheduler):
        found.add(Capability.PP)
    return frozenset(found)
