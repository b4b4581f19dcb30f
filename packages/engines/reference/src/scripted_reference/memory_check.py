"""The engine's own leak check: when nothing runs, every page and row is accounted for."""

from __future__ import annotations

from typing import TYPE_CHECKING

from scripted_reference.errors import PoolLeakError
from scripted_reference.memory import paged_growth
from scripted_reference.window_claims import check_window

if TYPE_CHECKING:
    from scripted_reference.scheduler import Scheduler


def check_memory(scheduler: Scheduler) -> None:
    """Raise `PoolLeakError` unless free, cached, requested and held memory add up to the pools.

    It compares counts, and costs a microsecond; `ownership.pool_claims` tells which page it is.
    """
    allocator = scheduler.token_to_kv_pool_allocator
    tree = scheduler.tree_cache
    rows = scheduler.req_to_token_pool
    owners = scheduler.owners()
    page_size = scheduler.page_size
    requested = sum(
        paged_growth(req.cache_protected_len, req.kv_allocated_len, page_size) for req in owners
    )
    free, cached = allocator.available_size(), tree.evictable_size() + tree.protected_size()
    held = scheduler.holds.page_count * page_size
    total = free + cached + requested + held
    if total != allocator.size:
        raise PoolLeakError(
            f"the KV pool of {allocator.size} tokens does not add up: {free} free + {cached} in the "
            f"prefix tree + {requested} of requests + {held} held = {total}",
            hint=_what_to_do(allocator.size - total),
        )
    if scheduler.memory.window is not None:
        check_window(scheduler, scheduler.memory.window)
    row_total = rows.available_size() + len(owners) + scheduler.holds.row_count
    if row_total != rows.size:
        raise PoolLeakError(
            f"the {rows.size} request rows do not add up: {rows.available_size()} free + "
            f"{len(owners)} of requests + {scheduler.holds.row_count} held = {row_total}",
            hint=_what_to_do(rows.size - row_total),
        )


def _what_to_do(missing: int) -> str:
    if missing > 0:
        return (
            "something was taken and never given back; "
            "take memory through hold_pages and hold_rows if it is to be held"
        )
    return "something was given back twice, or has two owners"
