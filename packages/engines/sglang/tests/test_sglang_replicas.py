"""Scripts on two data-parallel replicas: a yield is an iteration of both."""

from __future__ import annotations

import pytest
from scripted_backend_single import single_device_kwargs
from scripted_chunked import (
    advance_to_nth_chunk,
    run_until_all_finished,
    run_until_finished,
    run_until_seen_everywhere,
    settle,
)
from scripted_core.errors import ConfigError
from scripted_core.sessions.http_server import ScriptedHttpServer
from scripted_registry.ci import register_cpu_ci
from scripted_sglang import launch

register_cpu_ci(est_time=60, stage="single-sglang", runner_config="cpu")

pytestmark = [
    pytest.mark.skipif(
        launch.check_usable() is not None,
        reason=f"needs the capability 'an installed SGLang': {launch.check_usable()}",
    ),
    pytest.mark.scripted(**single_device_kwargs(model_path="tiny", dp_size=2)),
    pytest.mark.scripted_requires("dp"),
]

_MOST_STEPS = 5_000


def _start(t, prompt_len, *, seed, max_new_tokens=8, dp_rank=None):
    return t.start_req(
        prompt_len=prompt_len,
        seed=seed,
        max_new_tokens=max_new_tokens,
        ignore_eos=True,
        dp_rank=dp_rank,
    )


def _queues(t):
    return [(view.queues.waiting, view.queues.running, view.queues.chunked) for view in t.ranks]


def test_a_request_goes_where_it_is_sent(t):
    yield
    assert [view.rank for view in t.ranks] == ["dp0", "dp1"]
    there = _start(t, 40, seed=1, dp_rank=1)
    assert there.status == "waiting"
    assert not t.is_idle
    yield
    assert there.status == "running"
    assert _queues(t) == [((), (), ()), ((), (there.rid,), ())]
    here = _start(t, 40, seed=2, dp_rank=0)
    yield
    assert _queues(t) == [((), (here.rid,), ()), ((), (there.rid,), ())]
    assert t.queues.running == (here.rid, there.rid)
    assert here.req is not None
    assert there.req is None, "live objects are those of the replica that the script runs in"
    yield from run_until_all_finished([here, there])
    assert (len(here.output_ids), len(there.output_ids)) == (8, 8)


def test_without_a_rank_they_take_turns(t):
    handles = [_start(t, 20, seed=seed) for seed in range(4)]
    yield
    assert [view.queues.running for view in t.ranks] == [
        (handles[0].rid, handles[2].rid),
        (handles[1].rid, handles[3].rid),
    ]
    yield from run_until_all_finished(handles)


def test_a_yield_is_an_iteration_of_both(t):
    handles = [_start(t, 200, seed=seed, dp_rank=seed, max_new_tokens=4) for seed in (0, 1)]
    for n in (1, 2, 3):
        yield
        assert [handle.chunks_done for handle in handles] == [n, n]
        assert [handle.remaining_prompt_tokens for handle in handles] == [200 - 64 * n] * 2
        assert t.queues.chunked == (handles[0].rid, handles[1].rid)
    yield from run_until_all_finished(handles)
    for n in range(1, 5):
        assert [record.rids for record in t.batch_log if record.step == n] == [
            (handles[0].rid,),
            (handles[1].rid,),
        ]


def test_the_same_prompt_has_the_same_answer_on_both(t):
    handles = [_start(t, 100, seed=5, dp_rank=rank, max_new_tokens=16) for rank in (0, 1)]
    yield from run_until_all_finished(handles)
    assert handles[0].output_ids == handles[1].output_ids


def test_memory_operations_are_on_both(t):
    t.exhaust_kv(leave_pages=30)
    yield from run_until_seen_everywhere(t)
    assert [view.stats["kv_pool_free"] for view in t.ranks] == [30, 30]
    handles = [_start(t, 60, seed=seed, dp_rank=seed) for seed in (0, 1)]
    for _ in range(5):
        yield
    assert [handle.status for handle in handles] == ["waiting", "waiting"]
    t.release_exhausted()
    yield from run_until_all_finished(handles)
    yield from settle(t, max_steps=_MOST_STEPS)
    assert all(view.stats["kv_pool_evictable"] >= 60 for view in t.ranks)
    receipt = t.flush_cache()
    yield
    assert receipt.ok
    assert [view.stats["kv_pool_evictable"] for view in t.ranks] == [0, 0]


@pytest.mark.parametrize("mode", ["retract", "in_place"])
def test_a_pause_is_of_both(t, mode):
    handles = [_start(t, 257, seed=seed, dp_rank=seed) for seed in (0, 1)]
    yield from advance_to_nth_chunk(handles[1], 2)
    t.pause_generation(mode=mode)
    yield
    assert [view.is_paused for view in t.ranks] == [True, True]
    before = len(t.batch_log)
    for _ in range(5):
        yield
    assert len(t.batch_log) == before
    assert [handle.status for handle in handles] == (
        ["waiting"] * 2 if mode == "retract" else ["running"] * 2
    )
    t.continue_generation()
    yield from run_until_all_finished(handles)


def test_an_abort_finds_its_request(t):
    handles = [_start(t, 257, seed=seed, dp_rank=1) for seed in (0, 1)]
    yield from advance_to_nth_chunk(handles[0], 2)
    t.abort(handles[0])
    yield from run_until_finished(handles[0])
    assert handles[0].status == "aborted"
    assert handles[1].status != "aborted"
    t.abort_all()
    yield from run_until_finished(handles[1])
    assert handles[1].status == "aborted"


def test_one_that_sglang_refuses_is_refused_from_the_other_replica_too(t):
    r = _start(t, 5000, seed=1, dp_rank=1)
    assert r.status == "aborted"
    assert r.finish_reason.kind == "refused"
    yield


@pytest.mark.parametrize("n", [1, 2])
def test_what_a_script_leaves_on_the_other_replica_is_gone_before_the_next(t, n):
    assert t.is_fully_idle
    assert [view.queues.running for view in t.ranks] == [(), ()]
    _start(t, 257, seed=n, dp_rank=1, max_new_tokens=60)
    yield
    yield


def test_replicas_of_several_ranks_are_refused_before_a_start():
    with pytest.raises(ConfigError, match="cannot be scripted yet"):
        ScriptedHttpServer.start(backend="sglang", dp_size=2, tp_size=2)
