"""Who owns each page and row right now, read from where the engine itself reads it.

At an iteration boundary the claims partition the pool: free pages, the prefix tree's, what is held from
outside, and each request's own. What a request shares with the tree is listed beside them. Nothing is
counted along the way, so a page that got lost, or has two owners, shows.
"""

from __future__ import annotations

from itertools import accumulate
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from scripted_reference.memory import IntArray

if TYPE_CHECKING:
    from scripted_reference.scheduler import Scheduler


class RequestClaim(NamedTuple):
    """The page ids of one request: its own, and those of the tree that it reads as well."""

    rid: str
    own_pages: IntArray
    shared_pages: IntArray


class PoolClaims(NamedTuple):
    """Every claim on the KV pool: `int64` arrays of page ids, valid until the next iteration."""

    first_page: int
    num_pages: int
    free_pages: IntArray
    tree_pages: IntArray
    held_pages: IntArray
    requests: list[RequestClaim]


class RowClaims(NamedTuple):
    """Every claim on the request rows."""

    num_rows: int
    free_rows: tuple[int, ...]
    held_rows: tuple[int, ...]
    request_rows: dict[str, int]


def pool_claims(scheduler: Scheduler) -> PoolClaims:
    """Return who owns each KV page; some 20 µs for 8,192 slots, 8 requests and 50 tree nodes."""
    page_size = scheduler.page_size
    allocator = scheduler.token_to_kv_pool_allocator
    table = scheduler.req_to_token_pool.req_to_token
    tree_slots = scheduler.tree_cache.all_values_flatten()
    owners = scheduler.owners()
    parts: list[IntArray] = []
    for req in owners:
        row = table[req.req_pool_idx]
        parts.append(row[req.cache_protected_len : req.kv_allocated_len : page_size])
        parts.append(row[: req.cache_protected_len : page_size])
    if page_size != 1 and parts:
        # One division for all of them: on short arrays the calls cost more than the numbers.
        ends = list(accumulate(map(len, parts)))
        pages = np.concatenate(parts) // page_size
        parts = [pages[start:end] for start, end in zip([0, *ends], ends, strict=False)]
    return PoolClaims(
        first_page=1,
        num_pages=allocator.num_pages,
        free_pages=allocator.free_pages,
        tree_pages=tree_slots if page_size == 1 else tree_slots[::page_size] // page_size,
        held_pages=scheduler.holds.pages(),
        requests=[
            RequestClaim(req.rid, own, shared)
            for req, own, shared in zip(owners, parts[::2], parts[1::2], strict=True)
        ],
    )


def row_claims(scheduler: Scheduler) -> RowClaims:
    """Return who owns each request row."""
    pool = scheduler.req_to_token_pool
    return RowClaims(
        num_rows=pool.size,
        free_rows=tuple(pool.free_slots),
        held_rows=scheduler.holds.rows(),
        request_rows={
            req.rid: req.req_pool_idx for req in scheduler.owners() if req.req_pool_idx is not None
        },
    )
