"""Scarce memory: what is held back from requests, and what they do about it."""

from __future__ import annotations

import pytest
from scripted_backend_single import (
    flush,
    require_at_rest,
    run_steps,
    settle,
    single_device_kwargs,
    undisturbed_output,
)
from scripted_chunked import (
    advance_to_decode_step,
    exhaust_row_pool,
    run_until_all_finished,
    run_until_finished,
    warmup_radix,
)
from scripted_core.errors import ExhaustError
from scripted_registry.ci import register_cpu_ci

register_cpu_ci(est_time=2, stage="single", runner_config="cpu")
register_cpu_ci(est_time=25, stage="single-sglang", runner_config="cpu")

pytestmark = pytest.mark.scripted(**single_device_kwargs())

_IDLE_STEPS = 100


def _exhaust(t, name):
    match name:
        case "kv":
            t.exhaust_kv(leave_pages=3)
        case "kv-evicted":
            t.exhaust_kv(leave_pages=3, evictable="evict")
        case "lock_refs":
            t.exhaust_lock_refs(leave_refs=0)
        case "rows":
            t.exhaust("rows", leave_rows=0)


@pytest.mark.parametrize("name", ["kv", "kv-evicted", "lock_refs", "rows"])
def test_an_exhausted_engine_idles_without_a_leak(t, name):
    yield from warmup_radix(t, list(range(1, 101)))
    yield from settle(t)
    before = t.engine_stats()
    _exhaust(t, name)
    yield
    during = t.engine_stats()
    assert during != before
    for _ in range(_IDLE_STEPS):
        yield
        assert t.engine_stats() == during
    t.release_exhausted()
    yield
    require_at_rest(t)
    r = t.start_req(prompt_len=100, seed=3, max_new_tokens=4, ignore_eos=True)
    yield from run_until_finished(r)
    assert r.status == "finished"


@pytest.mark.parametrize("leave_pages", [0, 1, 50, 4000])
def test_exhaust_kv_leaves_exactly_so_many_pages(t, leave_pages):
    yield from warmup_radix(t, list(range(1, 101)))
    yield from settle(t)
    t.exhaust_kv(leave_pages=leave_pages)
    yield
    stats = t.engine_stats()
    assert stats["kv_pool_free"] + stats["kv_pool_evictable"] == leave_pages
    t.release_exhausted()
    yield
    require_at_rest(t)


def test_exhaust_kv_can_empty_the_tree_first(t):
    yield from warmup_radix(t, list(range(1, 101)))
    yield from settle(t)
    assert t.engine_stats()["kv_pool_evictable"] >= 100
    t.exhaust_kv(leave_pages=40, evictable="evict")
    yield
    assert t.engine_stats()["kv_pool_evictable"] == 0
    assert t.engine_stats()["kv_pool_free"] == 40
    assert t.get_all_node_hit_counts() == {}


@pytest.mark.parametrize("leave_refs", [0, 1])
def test_exhaust_lock_refs_leaves_so_many_nodes(t, leave_refs):
    for first_token in (1, 200, 400):
        yield from warmup_radix(t, list(range(first_token, first_token + 50)))
    yield from settle(t)
    # Some engines keep a prompt and what was put out behind it in nodes of their own.
    nodes = len(t.get_all_node_lock_refs())
    assert nodes in (3, 6)
    t.exhaust_lock_refs(leave_refs=leave_refs)
    yield
    unlocked = [ref for ref in t.get_all_node_lock_refs().values() if ref == 0]
    assert len(unlocked) == leave_refs
    t.evict_radix()
    yield
    assert len(t.get_all_node_lock_refs()) == nodes - leave_refs
    t.release_exhausted()
    yield
    assert set(t.get_all_node_lock_refs().values()) == {0}
    require_at_rest(t)


def test_exhausted_kv_keeps_a_request_waiting(t):
    alone = yield from undisturbed_output(t, prompt_len=100, seed=6, max_new_tokens=8)
    t.exhaust_kv(leave_pages=32)
    yield
    r = t.start_req(prompt_len=100, seed=6, max_new_tokens=8, ignore_eos=True)
    for _ in range(80):
        yield
        assert r.status == "waiting"
    assert r.kv_pages == 0
    t.release_exhausted()
    yield from run_until_finished(r)
    assert r.output_ids == alone


def test_a_request_that_fits_into_what_is_left_runs(t):
    t.exhaust_kv(leave_pages=60)
    yield
    r = t.start_req(prompt_len=30, seed=6, max_new_tokens=8, ignore_eos=True)
    yield from run_until_finished(r)
    assert r.status == "finished"
    assert len(r.output_ids) == 8


def test_exhausted_rows_keep_a_request_waiting(t):
    t.exhaust("rows", leave_rows=1)
    yield
    first = t.start_req(prompt_len=20, seed=1, max_new_tokens=12, ignore_eos=True)
    second = t.start_req(prompt_len=20, seed=2, max_new_tokens=4, ignore_eos=True)
    yield from advance_to_decode_step(first, 4)
    assert first.status == "running"
    assert second.status == "waiting"
    assert t.engine_stats()["req_pool_free"] == 0
    yield from run_until_all_finished([first, second])
    rows = [record.rids for record in t.batch_log]
    assert all(len(rids) == 1 for rids in rows), "two requests shared the one row"
    t.release_exhausted()
    yield
    yield from settle(t)
    require_at_rest(t)


def test_ballast_keeps_a_request_waiting(t):
    ballast = yield from exhaust_row_pool(t, leave_rows=0)
    assert len(ballast) == t.engine_stats()["req_pool_total"]
    r = t.start_req(prompt_len=20, max_new_tokens=4, ignore_eos=True)
    yield from run_steps(5)
    assert r.status == "waiting"
    t.abort(ballast[0])
    yield from run_until_finished(r)
    assert r.status == "finished"
    t.abort_all()
    yield from run_until_all_finished(ballast)
    yield from settle(t)
    require_at_rest(t)


def test_ballast_refuses_to_leave_more_rows_than_are_free(t):
    with pytest.raises(ExhaustError, match="leave_rows=10000"):
        yield from exhaust_row_pool(t, leave_rows=10_000)
    assert t.is_fully_idle


@pytest.mark.parametrize("seeds", [(1, 2), (3, 4), (5, 6)])
def test_retraction_under_pressure_keeps_the_outputs(t, seeds):
    alone = []
    for seed in seeds:
        output = yield from undisturbed_output(t, prompt_len=60, seed=seed, max_new_tokens=40)
        alone.append(output)
    started = [
        t.start_req(prompt_len=60, seed=seed, max_new_tokens=40, ignore_eos=True) for seed in seeds
    ]
    yield from advance_to_decode_step(started[-1], 4)
    t.exhaust_kv(leave_pages=16)
    gave_way = set()
    for _ in range(300):
        yield
        gave_way |= {r.rid for r in started if r.status == "waiting"}
        if all(r.finished for r in started):
            break
    assert [r.status for r in started] == ["finished", "finished"]
    assert gave_way, "nothing was retracted: the script did not do what it is for"
    assert [r.output_ids for r in started] == alone
    for r in started:
        assert r.client.wait_ended(5.0), "the client's stream did not end"
        assert r.client.token_ids == r.output_ids
    t.release_exhausted()
    yield
    yield from flush(t)
    require_at_rest(t)
