"""Scripts on two pipeline stages: a yield is one microbatch slot, and a pause is emulated."""

from __future__ import annotations

import pytest
from scripted_backend_single import single_device_kwargs
from scripted_chunked import (
    advance_to_decode_step,
    advance_to_nth_chunk,
    run_until,
    run_until_all_finished,
    run_until_finished,
    run_until_seen_everywhere,
)
from scripted_registry.ci import register_cpu_ci
from scripted_sglang import launch

register_cpu_ci(est_time=60, stage="single-sglang", runner_config="cpu")

pytestmark = [
    pytest.mark.usefixtures("breakable_ranks"),
    pytest.mark.skipif(
        launch.check_usable() is not None,
        reason=f"needs the capability 'an installed SGLang': {launch.check_usable()}",
    ),
    pytest.mark.scripted(**single_device_kwargs(model_path="tiny", pp_size=2)),
    pytest.mark.scripted_requires("pp"),
]

SLOTS = 2


def _start(t, prompt_len, *, seed, max_new_tokens=8):
    return t.start_req(
        prompt_len=prompt_len, seed=seed, max_new_tokens=max_new_tokens, ignore_eos=True
    )


def _alone(t, prompt_len, *, seed, max_new_tokens=8):
    """What a request answers when nothing else is there."""
    r = _start(t, prompt_len, seed=seed, max_new_tokens=max_new_tokens)
    yield from run_until_finished(r)
    yield from run_until(r, lambda _: t.is_fully_idle)
    receipt = t.flush_cache()
    yield
    assert receipt.ok
    return r.output_ids


# -- slots ---------------------------------------------------------------------------------------


def test_a_yield_is_one_slot(t):
    r = _start(t, 20, seed=1, max_new_tokens=3)
    after = []
    while not r.finished:
        yield
        after.append((len(t.batch_log), len(r.output_ids)))
    # A token is there in the slot after the one of its batch, and the next batch in the slot after that.
    assert after == [(1, 0), (1, 1), (2, 1), (2, 2), (3, 2), (3, 3)]
    assert [record.step for record in t.batch_log] == [1, 3, 5]


def test_two_requests_take_turns(t):
    first = _start(t, 20, seed=1, max_new_tokens=4)
    yield
    second = _start(t, 21, seed=2, max_new_tokens=4)
    yield
    assert first.status == second.status == "running"
    yield from run_until_all_finished([first, second])
    assert [record.rids for record in t.batch_log[:6]] == [
        (first.rid,),
        (second.rid,),
    ] * 3


def test_chunks_of_one_prompt_fill_the_slots(t):
    r = _start(t, 257, seed=3, max_new_tokens=2)
    chunks = []
    for _ in range(5):
        yield
        chunks.append(r.chunks_done)
    assert chunks == [1, 2, 3, 4, 5]
    assert r.chunked_parks == 0
    assert not r.output_ids
    yield
    assert len(r.output_ids) == 1


def test_a_batch_in_flight_is_not_idle(t):
    r = _start(t, 20, seed=1, max_new_tokens=1)
    yield
    assert not t.is_fully_idle
    yield
    assert r.finished
    receipt = t.flush_cache()
    yield
    assert receipt.ok is False or t.is_fully_idle
    yield from run_until(r, lambda _: t.is_fully_idle)


# -- pause in place ------------------------------------------------------------------------------


def test_paused_in_place_nothing_advances_on_any_stage(t):
    expected = yield from _alone(t, 100, seed=4)
    r = _start(t, 100, seed=4)
    yield from advance_to_decode_step(r, 3)
    t.pause_generation(mode="in_place")
    for _ in range(SLOTS):
        yield
    batches, tokens = len(t.batch_log), len(r.output_ids)
    later = _start(t, 30, seed=5)
    for _ in range(3 * SLOTS):
        yield
        assert (len(t.batch_log), len(r.output_ids)) == (batches, tokens)
    assert [view.is_paused for view in t.ranks] == [True, True]
    assert [view.queues.running for view in t.ranks] == [(r.rid,), (r.rid,)]
    assert later.status == "waiting"
    t.continue_generation()
    yield from run_until_all_finished([r, later])
    assert r.output_ids == expected


def test_paused_in_place_with_chunks_in_flight(t):
    expected = yield from _alone(t, 257, seed=6)
    r = _start(t, 257, seed=6)
    yield from advance_to_nth_chunk(r, 2)
    t.pause_generation(mode="in_place")
    parked = r.chunked_parks
    for _ in range(3 * SLOTS):
        yield
        assert (r.chunks_done, r.is_chunking) == (2, True)
    assert r.chunked_parks == parked + 3 * SLOTS
    t.continue_generation()
    yield from run_until_finished(r)
    assert r.chunks_done == 5
    assert r.output_ids == expected


@pytest.mark.parametrize("stage", ["prefilled", "decoding", "chunking", "waiting"])
def test_an_abort_while_paused_in_place(t, stage):
    r = _start(t, 257 if stage == "chunking" else 40, seed=7, max_new_tokens=20)
    other = _start(t, 30, seed=8, max_new_tokens=6)
    if stage == "decoding":
        yield from advance_to_decode_step(r, 3)
    elif stage != "waiting":
        yield
    t.pause_generation(mode="in_place")
    for _ in range(2 * SLOTS):
        yield
    t.abort(r)
    for _ in range(2 * SLOTS):
        yield
    assert r.finished == (stage == "waiting")
    t.continue_generation()
    yield from run_until_all_finished([r, other])
    assert (r.status, other.status) == ("aborted", "finished")
    yield from run_until(r, lambda _: t.is_fully_idle)


def test_a_flush_while_paused_in_place_spares_what_is_there(t):
    expected = yield from _alone(t, 40, seed=9)
    r = _start(t, 40, seed=9)
    yield  # prefilled, and in no decode batch yet
    t.pause_generation(mode="in_place")
    for _ in range(2 * SLOTS):
        yield
    receipt = t.flush_cache()
    yield
    assert receipt.ok is False
    t.continue_generation()
    yield from run_until_finished(r)
    assert r.output_ids == expected


# -- retract -------------------------------------------------------------------------------------


def test_a_retraction_waits_until_nothing_is_in_flight(t):
    expected = yield from _alone(t, 257, seed=10)
    r = _start(t, 257, seed=10)
    yield from advance_to_nth_chunk(r, 3)
    t.pause_generation(mode="retract")
    yield
    assert r.is_chunking, "two of its chunks are in flight"
    for _ in range(SLOTS):
        yield
    assert r.status == "waiting"
    yield from run_until_seen_everywhere(t)
    assert [view.queues.waiting for view in t.ranks] == [(r.rid,), (r.rid,)]
    batches = len(t.batch_log)
    for _ in range(3 * SLOTS):
        yield
    assert len(t.batch_log) == batches
    t.continue_generation()
    yield from run_until_finished(r)
    assert r.output_ids == expected


def test_every_microbatch_is_retracted_once(t):
    expected = []
    for seed in (11, 12):
        expected.append((yield from _alone(t, 60, seed=seed, max_new_tokens=12)))
    handles = []
    for seed in (11, 12):
        handles.append(_start(t, 60, seed=seed, max_new_tokens=12))
        yield
    yield from advance_to_decode_step(handles[1], 4)
    t.pause_generation(mode="retract")
    yield from run_until(handles[0], lambda _: not t.queues.running)
    assert sorted(t.queues.waiting) == sorted(handle.rid for handle in handles)
    t.continue_generation()
    yield from run_until_all_finished(handles)
    assert [handle.output_ids for handle in handles] == expected


def test_a_continue_waits_for_the_retraction_before_it(t):
    expected = yield from _alone(t, 100, seed=13)
    r = _start(t, 100, seed=13)
    yield from advance_to_decode_step(r, 3)
    before = len(t.batch_log)
    t.pause_generation(mode="retract")
    t.continue_generation()
    yield from run_until_finished(r)
    assert r.output_ids == expected
    again = [record for record in t.batch_log[before:] if record.extend_rids]
    assert [record.extend_rids for record in again] == [(r.rid,)], "it was retracted, and prefilled"


def test_a_pause_after_a_continue_that_still_waits_is_in_force(t):
    r = _start(t, 100, seed=14)
    yield from advance_to_decode_step(r, 3)
    t.pause_generation(mode="retract")
    t.continue_generation()
    t.pause_generation(mode="in_place")
    for _ in range(3 * SLOTS):
        yield
    assert [view.is_paused for view in t.ranks] == [True, True]
    assert r.status == "waiting"
    t.continue_generation()
    yield from run_until_finished(r)


# -- memory while chunks are in flight -----------------------------------------------------------


def test_pages_are_taken_while_chunks_are_in_flight(t):
    expected = yield from _alone(t, 257, seed=15)
    r = _start(t, 257, seed=15)
    yield from advance_to_nth_chunk(r, 2)
    t.exhaust_kv(leave_pages=257 - 2 * 64 + 8 + SLOTS)
    other = _start(t, 200, seed=16)
    yield from run_until_finished(r)
    assert other.status == "waiting"
    assert r.output_ids == expected
    t.release_exhausted()
    yield from run_until_finished(other)


@pytest.mark.parametrize("what", ["abort", "abort_all", "flush"])
def test_control_while_chunks_are_in_flight(t, what):
    r = _start(t, 257, seed=17)
    yield from advance_to_nth_chunk(r, 2)
    if what == "flush":
        receipt = t.flush_cache()
        yield
        assert receipt.ok is False
        yield from run_until_finished(r)
        assert r.status == "finished"
        return
    if what == "abort":
        t.abort(r)
    else:
        t.abort_all()
    yield from run_until_finished(r)
    assert r.status == "aborted"
    assert r.chunks_done <= 3
    yield from run_until(r, lambda _: t.is_fully_idle)
    assert t.engine_stats()["req_pool_free"] == t.engine_stats()["req_pool_total"]


@pytest.mark.parametrize("leaves", ["chunking", "decoding", "paused", "retracting"])
def test_what_a_script_leaves_in_flight_is_gone_before_the_next(t, leaves):
    assert t.is_fully_idle
    assert t.engine_stats()["kv_pool_free"] == t.engine_stats()["kv_pool_total"]
    r = _start(t, 257, seed=18, max_new_tokens=60)
    yield from advance_to_nth_chunk(r, 2)
    if leaves == "decoding":
        yield from advance_to_decode_step(r, 2)
    elif leaves == "paused":
        t.pause_generation(mode="in_place")
        yield
    elif leaves == "retracting":
        t.pause_generation(mode="retract")
        yield


def test_nothing_was_left(t):
    assert t.is_fully_idle
    assert not t.queues.waiting
    assert t.engine_stats()["kv_pool_free"] == t.engine_stats()["kv_pool_total"]
    yield


# -- SGLang's own pause --------------------------------------------------------------------------


@pytest.mark.scripted_known_defect(
    engine="sglang",
    releases="<=0.5.23",
    finding="docs/findings/sglang-pp-pause.md",
    match="batches ran while paused",
)
def test_sglangs_own_pause_in_place_lasts(t):
    t.exhaust("sabotage", what="leave_pause_to_sglang")
    r = _start(t, 40, seed=19, max_new_tokens=20)
    yield from advance_to_decode_step(r, 3)
    t.pause_generation(mode="in_place")
    for _ in range(SLOTS):
        yield
    before = len(t.batch_log)
    for _ in range(4 * SLOTS):
        yield
    assert t.ranks[0].is_paused
    ran = len(t.batch_log) - before
    assert ran == 0, f"{ran} batches ran while paused"


@pytest.mark.scripted_known_defect(
    engine="sglang",
    releases="<=0.5.23",
    finding="docs/findings/sglang-pp-pause.md",
    match="still running after a retraction",
)
def test_sglangs_own_retraction_takes_every_microbatch(t):
    t.exhaust("sabotage", what="leave_pause_to_sglang")
    handles = []
    for seed in (20, 21):
        handles.append(_start(t, 40, seed=seed, max_new_tokens=30))
        yield
    yield from advance_to_decode_step(handles[1], 3)
    t.pause_generation(mode="retract")
    yield
    running = t.queues.running
    assert not running, f"{len(running)} of 2 requests are still running after a retraction"
