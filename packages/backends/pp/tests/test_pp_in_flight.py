"""Whatever comes exactly while the last chunk's result is in flight and the queues look empty."""

from __future__ import annotations

import pytest
from scripted_backend_pp import (
    CHUNK_TOKENS,
    deep_pipeline_kwargs,
    launch_whole_prompt,
    pipeline_kwargs,
    require_ranks_alike,
    until_drained,
)
from scripted_chunked import (
    require_at_rest,
    run_steps,
    run_until_all_finished,
    run_until_finished,
    run_until_seen_everywhere,
    settle,
    undisturbed_output,
)
from scripted_core.views import RequestStatus
from scripted_registry.ci import register_cpu_ci

register_cpu_ci(est_time=5, stage="pp", runner_config="cpu")
register_cpu_ci(est_time=40, stage="pp-sglang", runner_config="cpu")

_CHUNKS = 4
_NEW_TOKENS = 6
_TURN = 8  # iterations: no fewer than microbatch slots


def pytest_generate_tests(metafunc):
    asked = metafunc.config.getoption("scripted_backend") or ["reference"]
    params = [pytest.param("two", marks=pytest.mark.scripted(**pipeline_kwargs()))]
    if not asked[0].startswith("sglang"):
        deep = pytest.mark.scripted(**deep_pipeline_kwargs())
        params.append(pytest.param("four", marks=deep))
    metafunc.parametrize("stages", params)


pytestmark = pytest.mark.scripted_requires("pp", "chunked_prefill")


def _expected(t):
    return (
        yield from undisturbed_output(
            t, prompt_len=_CHUNKS * CHUNK_TOKENS, seed=5, max_new_tokens=_NEW_TOKENS
        )
    )


def _launch(t):
    r = t.start_req(
        prompt_len=_CHUNKS * CHUNK_TOKENS, seed=5, max_new_tokens=_NEW_TOKENS, ignore_eos=True
    )
    yield from launch_whole_prompt(t, r, chunks=_CHUNKS)
    return r


def _at_rest(t):
    yield from settle(t)
    require_at_rest(t)
    require_ranks_alike(t)


def test_a_flush_is_refused(t, stages):
    expected = yield from _expected(t)
    r = yield from _launch(t)
    receipt = t.flush_cache()
    yield
    assert receipt.ok is False
    yield from run_until_finished(r)
    assert r.output_ids == expected
    yield from _at_rest(t)


def test_a_flush_is_refused_before_anything_is_cached(t, stages):
    expected = yield from undisturbed_output(t, prompt_len=30, seed=5, max_new_tokens=_NEW_TOKENS)
    r = t.start_req(prompt_len=30, seed=5, max_new_tokens=_NEW_TOKENS, ignore_eos=True)
    while not t.batch_log or r.rid not in t.batch_log[-1].rids:
        yield
    receipt = t.flush_cache()
    yield
    assert receipt.ok is False, "its prompt is in flight, and no queue has it"
    yield from run_until_finished(r)
    assert r.output_ids == expected
    yield from _at_rest(t)


def test_an_abort_reaches_it(t, stages):
    r = yield from _launch(t)
    t.abort(r)
    yield from run_until_finished(r)
    assert r.status is RequestStatus.ABORTED
    yield from _at_rest(t)


def test_an_abort_of_all_reaches_it(t, stages):
    expected = yield from _expected(t)
    r = yield from _launch(t)
    t.abort_all()
    yield from run_until_finished(r)
    assert r.status is RequestStatus.ABORTED
    again = t.start_req(
        prompt_len=_CHUNKS * CHUNK_TOKENS, seed=5, max_new_tokens=_NEW_TOKENS, ignore_eos=True
    )
    yield from run_until_finished(again)
    assert again.output_ids == expected
    yield from _at_rest(t)


def test_a_pause_that_retracts_puts_it_back(t, stages):
    expected = yield from _expected(t)
    r = yield from _launch(t)
    t.pause_generation(mode="retract")
    yield
    yield from until_drained(t, r)
    assert r.status is RequestStatus.WAITING
    assert r.kv_pages == 0
    tokens = len(r.output_ids)
    batches = len(t.batch_log)
    yield from run_steps(2 * _TURN)
    assert (len(r.output_ids), len(t.batch_log)) == (tokens, batches)
    t.continue_generation()
    yield from run_until_finished(r)
    assert r.output_ids == expected
    yield from _at_rest(t)


def test_a_pause_in_place_freezes_it_once_drained(t, stages):
    expected = yield from _expected(t)
    r = yield from _launch(t)
    t.pause_generation(mode="in_place")
    yield from run_steps(_TURN)
    tokens = len(r.output_ids)
    batches = len(t.batch_log)
    assert tokens <= 1, "only what was in flight came out"
    yield from run_steps(2 * _TURN)
    assert (len(r.output_ids), len(t.batch_log)) == (tokens, batches)
    assert r.status is RequestStatus.RUNNING
    t.continue_generation()
    yield from run_until_finished(r)
    assert r.output_ids == expected
    yield from _at_rest(t)


@pytest.mark.parametrize("mode", ["retract", "in_place"])
def test_a_continue_before_the_pause_is_complete(t, stages, mode):
    expected = yield from _expected(t)
    r = yield from _launch(t)
    t.pause_generation(mode=mode)
    yield
    t.continue_generation()
    yield from run_until_finished(r)
    assert r.output_ids == expected
    yield from _at_rest(t)


def test_exhausted_memory_takes_what_is_free_on_every_stage(t, stages):
    expected = yield from _expected(t)
    r = yield from _launch(t)
    t.exhaust_kv(leave_pages=_NEW_TOKENS + 2)
    yield
    held = {rank.held["full"] for rank in t.ranks if rank.step == t.step_index}
    assert len(held) == 1
    assert held.pop() > 0
    yield from run_until_finished(r)
    assert r.output_ids == expected
    t.release_exhausted()
    yield from _at_rest(t)


def test_others_that_arrive_meanwhile_change_nothing(t, stages):
    expected = yield from _expected(t)
    r = yield from _launch(t)
    others = [
        t.start_req(prompt_len=30 + seed, seed=seed, max_new_tokens=5, ignore_eos=True)
        for seed in range(40, 46)
    ]
    yield from run_until_all_finished([r, *others])
    assert r.output_ids == expected
    yield from _at_rest(t)


def test_the_reset_waits_for_it(scripted_session, stages):
    """A script that ends with a chunk in flight; the next one finds an engine at rest."""
    scripted_session.execute_script(_leaves_it)
    scripted_session.execute_script(_finds_nothing)


def _leaves_it(t):
    r = yield from _launch(t)
    assert not t.is_fully_idle
    assert not r.finished


def _finds_nothing(t):
    assert not t.list_active_reqs()
    yield from run_until_seen_everywhere(t)
    require_at_rest(t)
    require_ranks_alike(t)
    assert {rank.stats["kv_pool_free"] for rank in t.ranks} == {t.engine_stats()["kv_pool_total"]}
