"""Interference at each stage of a request's life."""

from __future__ import annotations

import pytest
from scripted_backend_single import (
    CHUNK_TOKENS,
    require_at_rest,
    run_steps,
    settle,
    single_device_kwargs,
    undisturbed_output,
)
from scripted_chunked import (
    LIFECYCLE_STAGES,
    advance_to_decode_step,
    advance_to_lifecycle_stage,
    run_until_all_finished,
    run_until_finished,
)
from scripted_registry.ci import register_cpu_ci

register_cpu_ci(est_time=2, stage="single", runner_config="cpu")
register_cpu_ci(est_time=25, stage="single-sglang", runner_config="cpu")

pytestmark = pytest.mark.scripted(**single_device_kwargs())

_PROMPT_LEN = 2 * CHUNK_TOKENS + 32
_NEW_TOKENS = 8
_FROZEN_STEPS = 3
_SEED = 11
_stages = pytest.mark.parametrize("stage", LIFECYCLE_STAGES)


def _start(t, *, seed=_SEED, max_new_tokens=_NEW_TOKENS):
    return t.start_req(
        prompt_len=_PROMPT_LEN, seed=seed, max_new_tokens=max_new_tokens, ignore_eos=True
    )


def _start_and_advance(t, stage):
    r = _start(t)
    yield from advance_to_lifecycle_stage(r, stage, num_middle_chunks=1, max_new_tokens=_NEW_TOKENS)
    return r


def _may_be_over(t, stage):
    """With overlap the last token is already being computed when all but it are there."""
    return stage == "last_decode" and "overlap" in t.capabilities


def _stay_frozen(t, r):
    """Step, and check that the request does not change."""
    before = (r.status, r.output_ids, r.chunks_done, r.remaining_prompt_tokens, r.kv_pages)
    batches = len(t.batch_log)
    for _ in range(_FROZEN_STEPS):
        yield
        now = (r.status, r.output_ids, r.chunks_done, r.remaining_prompt_tokens, r.kv_pages)
        assert now == before
    assert len(t.batch_log) == batches, "a paused engine ran a batch"


@_stages
def test_pause_retract(t, stage):
    alone = yield from undisturbed_output(
        t, prompt_len=_PROMPT_LEN, seed=_SEED, max_new_tokens=_NEW_TOKENS
    )
    r = yield from _start_and_advance(t, stage)
    t.pause_generation(mode="retract")
    yield
    if r.finished:
        assert _may_be_over(t, stage), "a retracted request ended"
    else:
        assert r.status == "waiting"
        assert t.queues.waiting == (r.rid,)
        assert t.queues.running == ()
        assert t.queues.chunked == ()
        assert r.kv_pages == 0
        assert t.engine_stats()["req_pool_free"] == t.engine_stats()["req_pool_total"]
        yield from _stay_frozen(t, r)
    t.continue_generation()
    yield from run_until_finished(r)
    assert r.status == "finished"
    assert r.output_ids == alone
    yield from settle(t)
    require_at_rest(t)


@_stages
def test_pause_in_place(t, stage):
    alone = yield from undisturbed_output(
        t, prompt_len=_PROMPT_LEN, seed=_SEED, max_new_tokens=_NEW_TOKENS
    )
    r = yield from _start_and_advance(t, stage)
    t.pause_generation(mode="in_place")
    yield
    assert not r.finished
    assert r.status == "running"
    assert r.kv_pages > 0
    yield from _stay_frozen(t, r)
    t.continue_generation()
    yield from run_until_finished(r)
    assert r.output_ids == alone
    yield from settle(t)
    require_at_rest(t)


@_stages
@pytest.mark.parametrize("which", ["abort", "abort_all"])
def test_abort(t, stage, which):
    r = yield from _start_and_advance(t, stage)
    got = len(r.output_ids)
    if which == "abort":
        t.abort(r)
    else:
        t.abort_all()
    yield from run_until_finished(r, max_steps=8)
    if r.status != "aborted":
        assert _may_be_over(t, stage), f"the aborted request ended with {r.finish_reason}"
    else:
        assert r.finish_reason.kind == "abort"
        assert got <= len(r.output_ids) <= got + 2
    yield from settle(t)
    assert r.kv_pages == 0
    require_at_rest(t)
    after = yield from undisturbed_output(t, prompt_len=40, seed=1, max_new_tokens=4)
    assert len(after) == 4


@_stages
def test_a_second_request_survives_every_abort(t, stage):
    alone = yield from undisturbed_output(
        t, prompt_len=_PROMPT_LEN, seed=2, max_new_tokens=_NEW_TOKENS
    )
    doomed = _start(t)
    other = _start(t, seed=2)
    yield from advance_to_lifecycle_stage(
        doomed, stage, num_middle_chunks=1, max_new_tokens=_NEW_TOKENS
    )
    t.abort(doomed)
    yield from run_until_all_finished([doomed, other])
    assert doomed.status == "aborted" or _may_be_over(t, stage)
    assert other.status == "finished"
    assert other.output_ids == alone


@pytest.mark.parametrize("victim", [0, 1, 2])
def test_abort_of_one_among_several_leaves_the_others(t, victim):
    alone = []
    for seed in range(3):
        output = yield from undisturbed_output(t, prompt_len=30, seed=seed, max_new_tokens=20)
        alone.append(output)
    started = [
        t.start_req(prompt_len=30, seed=seed, max_new_tokens=20, ignore_eos=True)
        for seed in range(3)
    ]
    yield from advance_to_decode_step(started[-1], 3)
    t.abort(started[victim])
    yield from run_until_all_finished(started)
    for i, r in enumerate(started):
        if i == victim:
            assert r.status == "aborted"
            assert r.output_ids == alone[i][: len(r.output_ids)]
        else:
            assert r.status == "finished"
            assert r.output_ids == alone[i]


@pytest.mark.parametrize("mode", ["retract", "in_place"])
def test_a_request_that_starts_while_paused_waits(t, mode):
    t.pause_generation(mode=mode)
    yield
    r = _start(t)
    yield from run_steps(1)
    assert r.status == "waiting"
    assert t.queues.waiting == (r.rid,)
    yield from _stay_frozen(t, r)
    assert t.batch_log == ()
    t.continue_generation()
    yield from run_until_finished(r)
    assert r.status == "finished"


@_stages
def test_abort_while_paused_in_place_takes_effect_at_continue(t, stage):
    r = yield from _start_and_advance(t, stage)
    t.pause_generation(mode="in_place")
    yield
    t.abort(r)
    yield from _stay_frozen(t, r)
    assert not r.finished
    t.continue_generation()
    yield from run_until_finished(r, max_steps=8)
    assert r.status == "aborted" or _may_be_over(t, stage)
    yield from settle(t)
    require_at_rest(t)


def test_abort_while_retracted_takes_effect_at_once(t):
    r = yield from _start_and_advance(t, "mid_decode")
    t.pause_generation(mode="retract")
    yield
    got = r.output_ids
    t.abort(r)
    yield
    assert r.status == "aborted"
    assert r.output_ids == got
    t.continue_generation()
    yield from settle(t)
    require_at_rest(t)


@pytest.mark.parametrize("times", [2, 4])
def test_repeated_retraction_keeps_output_and_stream(t, times):
    alone = yield from undisturbed_output(t, prompt_len=_PROMPT_LEN, seed=4, max_new_tokens=16)
    r = _start(t, seed=4, max_new_tokens=16)
    for i in range(times):
        yield from advance_to_decode_step(r, 1 + 3 * i)
        t.pause_generation(mode="retract")
        yield from run_steps(2)
        t.continue_generation()
    yield from run_until_finished(r)
    assert r.output_ids == alone
    assert r.client.wait_ended(5.0), "the client's stream did not end"
    assert r.client.token_ids == alone


def test_retraction_after_in_place(t):
    r = yield from _start_and_advance(t, "mid_decode")
    t.pause_generation(mode="in_place")
    yield
    t.pause_generation(mode="retract")
    yield
    assert r.status == "waiting"
    t.continue_generation()
    yield from run_until_finished(r)
    assert r.status == "finished"
