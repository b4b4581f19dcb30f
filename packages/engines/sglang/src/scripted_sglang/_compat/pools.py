"""Allocators of KV pages: one, or of a hybrid model one for full attention and one for windows."""

from __future__ import annotations

from typing import Any

import numpy as np

from scripted_sglang._compat.arrays import IntArray, as_array


def free_pages(allocator: Any) -> IntArray:
    """Ids of all free pages of one allocator.

    Up to 0.5.15 there is no call for them: a paged allocator has two lists, of which it sorts the
    pages that were given back into the other when it needs them.
    """
    if hasattr(allocator, "get_all_free_pages"):
        return as_array(allocator.get_all_free_pages())
    lists = (allocator.free_pages, allocator.release_pages)
    return np.concatenate([as_array(pages) for pages in lists])


def kv_allocators(scheduler: Any) -> dict[str, Any]:
    """The allocators by the name of their pool: ``full``, and ``swa`` of a sliding-window model."""
    allocator = scheduler.token_to_kv_pool_allocator
    if not hasattr(allocator, "swa_attn_allocator"):
        return {"full": allocator}
    return {"full": allocator.full_attn_allocator, "swa": allocator.swa_attn_allocator}


def window_slots(scheduler: Any, full_slots: IntArray) -> IntArray:
    """The slots of the pool ``swa`` that belong to slots of the pool ``full``.

    Fewer come out than went in: what has left the window has no slot any more.
    """
    mapping = scheduler.token_to_kv_pool_allocator.full_to_swa_index_mapping
    mapped = as_array(mapping)[full_slots]
    return mapped[mapped > 0]


def capacity_tokens(allocator: Any) -> int:
    """Tokens that an allocator manages."""
    return int(allocator.size)
