"""Allocators of KV pages."""

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


def capacity_tokens(allocator: Any) -> int:
    """Tokens that an allocator manages."""
    return int(allocator.size)
