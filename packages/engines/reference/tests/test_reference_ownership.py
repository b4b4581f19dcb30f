from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scripted_reference.errors import DoubleFreeError, HoldError, PoolLeakError
from scripted_reference.ownership import pool_claims, row_claims
from scripted_registry.ci import register_cpu_ci

register_cpu_ci(est_time=1, stage="reference", runner_config="cpu")


@pytest.mark.parametrize("page_size", [1, 16])
def test_claims_name_every_owner(engine: Any, page_size: int) -> None:
    e = engine(page_size=page_size, max_total_tokens=512)
    e.post("a", 40, max_new_tokens=30)
    e.step()
    e.post("b", [*e.prompts["a"][:32], 7, 8, 9], max_new_tokens=30)
    e.step(3)
    slots = e.scheduler.holds.hold_pages(2)
    claims = pool_claims(e.scheduler)
    assert (claims.first_page, claims.num_pages) == (1, 512 // page_size)
    assert claims.held_pages.tolist() == sorted(set((slots // page_size).tolist()))
    by_rid = {claim.rid: claim for claim in claims.requests}
    a, b = by_rid["a"], by_rid["b"]
    shared = 32 // page_size
    assert a.shared_pages[:shared].tolist() == b.shared_pages[:shared].tolist()
    row = e.scheduler.req_to_token_pool.req_to_token[e.req("b").req_pool_idx]
    assert b.own_pages.tolist() == sorted(
        set((row[e.req("b").cache_protected_len : 37] // page_size).tolist())
    )
    assert row_claims(e.scheduler).request_rows.keys() == {"a", "b"}
    e.check()


def test_the_chunked_request_is_an_owner(engine: Any) -> None:
    e = engine(chunked_prefill_size=64)
    e.post("r", 100)
    e.step()
    (claim,) = pool_claims(e.scheduler).requests
    assert (claim.rid, len(claim.own_pages), len(claim.shared_pages)) == ("r", 64, 0)


@pytest.mark.parametrize("page_size", [1, 16])
def test_held_memory_is_out_of_reach_and_accounted_for(engine: Any, page_size: int) -> None:
    e = engine(page_size=page_size, max_total_tokens=512)
    holds = e.scheduler.holds
    some, more = holds.hold_pages(3), holds.hold_pages(2)
    rows = holds.hold_rows(4)
    assert len(some) == 3 * page_size
    assert (holds.page_count, holds.row_count) == (5, 4)
    e.step(100)
    assert e.scheduler.token_to_kv_pool_allocator.available_size() == 512 - 5 * page_size
    holds.release_pages(some)
    holds.release_pages(more)
    holds.release_rows(rows)
    assert (holds.page_count, holds.row_count, holds.pages().tolist()) == (0, 0, [])
    e.step()


def test_holding_too_much_or_releasing_too_much(engine: Any) -> None:
    e = engine(max_total_tokens=64, max_running_requests=4)
    holds = e.scheduler.holds
    for wrong in (65, -1):
        with pytest.raises(HoldError, match="64 are free"):
            holds.hold_pages(wrong)
    for wrong in (5, -1):
        with pytest.raises(HoldError, match="4 are free"):
            holds.hold_rows(wrong)
    slots = holds.hold_pages(2)
    with pytest.raises(HoldError, match="not held"):
        holds.release_pages(np.array([slots[0], 40]))
    assert holds.page_count == 2
    holds.release_pages(slots)
    with pytest.raises(HoldError, match="not held"):
        holds.release_pages(slots)
    with pytest.raises(HoldError, match=r"\[0\] were released"):
        holds.release_rows([0])
    e.step()


def test_the_engine_notices_lost_pages_when_idle(engine: Any) -> None:
    e = engine(max_total_tokens=64)
    e.scheduler.token_to_kv_pool_allocator.alloc(3)
    with pytest.raises(PoolLeakError, match=r"61 free \+ 0 in the prefix tree .* = 61") as caught:
        e.scheduler.iterate()
    assert "never given back" in str(caught.value.hint)


def test_the_engine_notices_lost_rows_when_idle(engine: Any) -> None:
    e = engine(max_running_requests=4)
    e.scheduler.req_to_token_pool.alloc(1)
    with pytest.raises(PoolLeakError, match="4 request rows"):
        e.scheduler.iterate()


def test_the_engine_notices_memory_with_two_owners(engine: Any) -> None:
    e = engine(max_total_tokens=64)
    e.post("r", 20)
    e.step()
    req = e.req("r")
    row = e.scheduler.req_to_token_pool.req_to_token[req.req_pool_idx]
    e.scheduler.token_to_kv_pool_allocator.free(row[5:6])
    with pytest.raises(PoolLeakError, match="65") as caught:
        e.scheduler.check_memory()
    assert "two owners" in str(caught.value.hint)
    with pytest.raises(DoubleFreeError):
        e.scheduler.token_to_kv_pool_allocator.free(row[:20])
