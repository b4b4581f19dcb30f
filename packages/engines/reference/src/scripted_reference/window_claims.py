"""Who owns each page of the window pool, read from where the engine itself reads it: the mapping.

The claims are those of the full slots that the window slots are beside. Of a request, every slot in its
window has to have one, be it its own or the tree's: one that is missing is claimed as page 0, which is
nobody's to claim, so that it shows.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from scripted_reference.engine_memory import WindowPool
from scripted_reference.errors import PoolLeakError
from scripted_reference.memory import IntArray
from scripted_reference.ownership import PoolClaims, RequestClaim
from scripted_reference.request import Req

if TYPE_CHECKING:
    from scripted_reference.scheduler import Scheduler


def window_claims(scheduler: Scheduler, window: WindowPool) -> PoolClaims:
    """Return who owns each page of the window pool at an iteration boundary."""
    allocator, tree = window.allocator, window.tree_cache
    page_size = scheduler.page_size
    tree_pages = allocator.window_pages_of(tree.all_values_flatten()[::page_size])
    return PoolClaims(
        first_page=1,
        num_pages=allocator.swa_attn_allocator.num_pages,
        free_pages=allocator.swa_attn_allocator.free_pages,
        tree_pages=tree_pages[tree_pages != 0],
        held_pages=window.holds.pages(),
        requests=[_claim(scheduler, window, req) for req in scheduler.owners()],
    )


def _claim(scheduler: Scheduler, window: WindowPool, req: Req) -> RequestClaim:
    row: IntArray = scheduler.req_to_token_pool.req_to_token[req.req_pool_idx]
    page_size = scheduler.page_size
    positions = np.arange(0, req.kv_allocated_len, page_size)
    pages = window.allocator.window_pages_of(row[: req.kv_allocated_len : page_size])
    seen = positions + page_size > req.kv_committed_len - window.tree_cache.reach
    own = positions >= req.cache_protected_len
    return RequestClaim(req.rid, pages[own & (seen | (pages != 0))], pages[~own & seen])


def check_window(scheduler: Scheduler, window: WindowPool) -> None:
    """Raise `PoolLeakError` unless free, cached, requested and held pages add up to the window pool."""
    page_size = scheduler.page_size
    pool = window.allocator.swa_attn_allocator
    tree = window.tree_cache
    requested = page_size * sum(
        int(np.count_nonzero(_claim(scheduler, window, req).own_pages))
        for req in scheduler.owners()
    )
    cached = tree.swa_evictable_size() + tree.swa_protected_size()
    held = window.holds.count * page_size
    total = pool.available_size() + cached + requested + held
    if total != pool.size:
        raise PoolLeakError(
            f"the window pool of {pool.size} tokens does not add up: {pool.available_size()} free + "
            f"{cached} in the prefix tree + {requested} of requests + {held} held = {total}",
            hint="look at who gave window slots back without their full slots, or the other way",
        )
