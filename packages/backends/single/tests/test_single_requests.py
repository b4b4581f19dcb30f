"""Requests from their start to their end, and what a handle says on the way."""

from __future__ import annotations

import pytest
from scripted_backend_single import (
    CONTEXT_TOKENS,
    require_at_rest,
    run_steps,
    settle,
    single_device_kwargs,
)
from scripted_chunked import advance_to_decode_step, run_until_all_finished, run_until_finished
from scripted_core.errors import ConfigError, ExhaustError, PluginNotFound
from scripted_registry.ci import register_cpu_ci

register_cpu_ci(est_time=2, stage="single", runner_config="cpu")
register_cpu_ci(est_time=25, stage="single-sglang", runner_config="cpu")

pytestmark = pytest.mark.scripted(**single_device_kwargs())


@pytest.mark.parametrize("max_new_tokens", [1, 2, 8])
def test_a_request_starts_and_finishes(t, max_new_tokens):
    r = t.start_req(prompt_len=20, max_new_tokens=max_new_tokens, ignore_eos=True)
    yield from run_until_finished(r)
    assert r.status == "finished"
    assert r.finish_reason.kind == "length"
    assert len(r.output_ids) == max_new_tokens
    yield from settle(t)
    require_at_rest(t)


def test_an_automatic_rid_says_where_it_comes_from(t):
    first = t.start_req(prompt_len=20, max_new_tokens=4)
    second = t.start_req(prompt_len=20, max_new_tokens=4)
    assert first.rid.startswith("scripted-1-")
    assert second.rid.startswith("scripted-2-")
    assert first.rid != second.rid
    yield from run_until_all_finished([first, second])


def test_an_explicit_rid_is_the_engines_own(t):
    r = t.start_req(prompt_len=20, max_new_tokens=2, rid="explicit-rid", ignore_eos=True)
    assert r.rid == "explicit-rid"
    yield
    assert t.find_req_by_rid("explicit-rid") is not None
    assert [view.rid for view in t.engine.requests()] == ["explicit-rid"]
    assert t.batch.rids == ("explicit-rid",)
    yield from run_until_finished(r)
    assert t.is_finished("explicit-rid")


def test_a_rid_that_nobody_started(t):
    ghost = t.handle("nobody")
    busy = t.start_req(prompt_len=20, max_new_tokens=4, ignore_eos=True)
    yield from run_until_finished(busy)
    assert ghost.req is None
    assert ghost.status == "unknown"
    assert not ghost.finished
    assert ghost.finish_reason is None
    assert not ghost.is_chunking
    assert (ghost.chunks_done, ghost.chunked_parks, ghost.remaining_prompt_tokens) == (0, 0, 0)
    assert (ghost.kv_pages, ghost.lock_refs, ghost.output_ids) == (0, 0, [])
    with pytest.raises(ConfigError, match="no request 'nobody'"):
        _ = ghost.client


def test_an_abort_of_a_rid_that_nobody_started_changes_nothing(t):
    r = t.start_req(prompt_len=20, max_new_tokens=4, ignore_eos=True)
    yield
    t.abort(t.handle("nobody"))
    yield from run_until_finished(r)
    assert r.status == "finished"
    assert t.status("nobody") == "unknown"


def test_a_handle_before_its_request_is_received(t):
    r = t.start_req(prompt_len=100, max_new_tokens=4)
    assert r.status == "waiting"
    assert r.req is None
    assert not r.finished
    assert (r.kv_pages, r.lock_refs, r.chunks_done, r.output_ids) == (0, 0, 0, [])
    assert not t.is_fully_idle
    yield from run_until_finished(r)


def test_a_handle_while_its_request_runs(t):
    r = t.start_req(prompt_len=100, max_new_tokens=8, ignore_eos=True)
    yield from advance_to_decode_step(r, 3)
    assert r.status == "running"
    assert r.req is not None
    assert r.req.rid == r.rid
    assert not r.finished
    assert not t.is_idle
    assert r.kv_pages >= 100
    assert r.lock_refs >= 1
    assert r.remaining_prompt_tokens == 0
    assert t.queues.running == (r.rid,)
    yield from run_until_finished(r)


def test_a_handle_after_the_end(t):
    r = t.start_req(prompt_len=100, max_new_tokens=8, ignore_eos=True)
    yield from run_until_finished(r)
    yield from settle(t)
    assert r.req is None
    assert (r.kv_pages, r.lock_refs, r.remaining_prompt_tokens) == (0, 0, 0)
    assert r.status == "finished"
    assert len(r.output_ids) == 8
    assert r.chunks_done == 2
    assert t.is_idle
    assert t.list_active_reqs() == []


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_the_client_has_received_what_the_engine_put_out(t, seed):
    r = t.start_req(prompt_len=80, seed=seed, max_new_tokens=12, ignore_eos=True)
    yield from run_until_finished(r)
    assert r.client.wait_ended(5.0), "the client's stream did not end"
    assert r.client.token_ids == r.output_ids
    assert sum(r.client.chunks) == 12
    assert r.client.finish_reason.kind == "length"
    assert r.client.error is None
    assert r.client.http_status == (200 if "http" in t.capabilities else None)


def test_requests_start_in_the_order_in_which_they_arrived(t):
    t.pause_generation(mode="in_place")
    yield
    started = [t.start_req(prompt_len=10, seed=seed, max_new_tokens=4) for seed in range(5)]
    rids = tuple(r.rid for r in started)
    yield
    assert t.queues.waiting == rids
    t.continue_generation()
    yield from run_until_all_finished(started)
    assert tuple(dict.fromkeys(rid for record in t.batch_log for rid in record.rids)) == rids


@pytest.mark.scripted_requires("sglang_names")
def test_requests_wait_in_the_schedulers_queue_in_the_order_of_arrival(t):
    t.pause_generation(mode="retract")
    yield
    started = [t.start_req(prompt_len=10, seed=seed, max_new_tokens=4) for seed in range(3)]
    yield
    assert [req.rid for req in t.scheduler.waiting_queue] == [r.rid for r in started]
    assert all(r.req in t.scheduler.waiting_queue for r in started)
    t.continue_generation()
    yield from run_until_all_finished(started)


@pytest.mark.parametrize("excess", [0, 200])
def test_a_prompt_over_the_context_is_refused_before_the_inbox(t, excess):
    r = t.start_req(prompt_len=CONTEXT_TOKENS + 1 + excess, max_new_tokens=4)
    assert r.finished
    assert r.status == "aborted"
    assert r.finish_reason.kind == "refused"
    assert str(CONTEXT_TOKENS) in r.finish_reason.message
    assert r.output_ids == []
    assert r.client.ended
    yield from run_steps(3)
    assert t.batch_log == ()
    assert r.req is None
    other = t.start_req(prompt_len=10, max_new_tokens=2)
    yield from run_until_finished(other)
    assert other.status == "finished"


_IMPOSSIBLE_REQUESTS = [
    ({}, "neither prompt_len nor input_ids"),
    ({"prompt_len": 0}, "prompt_len=0"),
    ({"prompt_len": -3}, "prompt_len=-3"),
    ({"prompt_len": 4, "input_ids": [1, 2]}, "disagree"),
    ({"input_ids": []}, "empty"),
    ({"input_ids": [1, -1]}, "token id -1"),
    ({"prompt_len": 4, "prompt_token": 1 << 30}, "outside the vocabulary"),
    ({"prompt_len": 4, "max_new_tokens": 0}, "max_new_tokens=0"),
    ({"prompt_len": 4, "temperature": -1.0}, "temperature"),
    ({"prompt_len": 4, "rid": ""}, "rid=''"),
    ({"prompt_len": 4, "rid": "taken"}, "already used"),
    ({"prompt_len": 4, "rid": "taken-2"}, "prefixes of each other"),
    ({"prompt_len": 4, "rid": "tak"}, "prefixes of each other"),
]


def test_impossible_requests_leave_the_engine_usable(t):
    taken = t.start_req(prompt_len=10, max_new_tokens=4, rid="taken")
    for arguments, named in _IMPOSSIBLE_REQUESTS:
        with pytest.raises(ConfigError, match=named):
            t.start_req(**arguments)
    yield from run_until_finished(taken)
    assert taken.status == "finished"
    assert {rid for record in t.batch_log for rid in record.rids} == {"taken"}


def test_impossible_control_leaves_the_engine_usable(t):
    r = t.start_req(prompt_len=10, max_new_tokens=6, ignore_eos=True)
    yield
    free = t.engine_stats()["kv_pool_free"]
    with pytest.raises(ConfigError, match="unknown mode 'abort'"):
        t.pause_generation(mode="abort")
    with pytest.raises(ConfigError, match="not a request handle"):
        t.abort(r.rid)
    with pytest.raises(ConfigError, match="unknown via"):
        t.abort_all(via="pigeon")
    with pytest.raises(ConfigError, match="leave_pages=-1"):
        t.exhaust_kv(leave_pages=-1)
    with pytest.raises(ConfigError, match="no KV pool 'third'"):
        t.exhaust_kv(leave_pages=0, pool="third")
    with pytest.raises(ConfigError, match="unknown evictable"):
        t.exhaust_kv(leave_pages=0, evictable="never")
    with pytest.raises(ExhaustError, match="more than the"):
        t.exhaust_kv(leave_pages=10**9)
    with pytest.raises(ConfigError, match="leave_refs=-1"):
        t.exhaust_lock_refs(leave_refs=-1)
    with pytest.raises(PluginNotFound, match="'nothing'"):
        t.exhaust("nothing")
    assert t.engine_stats()["kv_pool_free"] == free
    yield from run_until_finished(r)
    assert len(r.output_ids) == 6


def test_what_an_exhauster_refuses_is_raised_at_the_yield(t):
    t.exhaust("rows", leave_rows=10**6)
    with pytest.raises(ExhaustError, match="leave_rows=1000000"):
        yield
    t.exhaust("kv", pages=3)
    with pytest.raises(ConfigError, match=r"does not take \['pages'\]"):
        yield
    r = t.start_req(prompt_len=10, max_new_tokens=2)
    yield from run_until_finished(r)
    assert r.status == "finished"


@pytest.mark.parametrize(
    "via", ["inbox", pytest.param("http", marks=pytest.mark.scripted_requires("http"))]
)
def test_control_over_either_way(t, via):
    r = t.start_req(prompt_len=20, max_new_tokens=40, ignore_eos=True)
    yield from advance_to_decode_step(r, 2)
    t.abort(r, via=via)
    yield from run_until_finished(r, max_steps=30)
    assert r.status == "aborted"
    assert 2 <= len(r.output_ids) < 40


@pytest.mark.parametrize("rid", ["scripted", "other", "scripted-1"])
def test_an_abort_of_an_unknown_rid_aborts_nobody(t, rid):
    r = t.start_req(prompt_len=20, max_new_tokens=6, ignore_eos=True)
    yield
    t.abort(t.handle(rid))
    yield from run_until_finished(r)
    assert r.status == "finished"
    assert len(r.output_ids) == 6
