"""The generators that take a request to a point of its life, on a real scheduler."""

from __future__ import annotations

import pytest
from scripted_chunked import (
    DEFAULT_CHUNK_SIZE,
    DEFAULT_MAX_STEPS,
    LIFECYCLE_STAGES,
    SMALL_MODEL,
    advance_to_decode_step,
    advance_to_lifecycle_stage,
    advance_to_nth_chunk,
    base_engine_kwargs,
    exhaust_row_pool,
    run_until,
    run_until_all_finished,
    run_until_finished,
    warmup_radix,
)
from scripted_core.errors import CapabilityMissing, ConfigError, ExhaustError, StepsExhausted
from scripted_registry.ci import register_cpu_ci

register_cpu_ci(est_time=2, stage="single", runner_config="cpu")

_CHUNK = 32
_ROWS = 6
_ENGINE = base_engine_kwargs(
    chunked_prefill_size=_CHUNK, max_total_tokens=2048, max_running_requests=_ROWS
)

pytestmark = pytest.mark.scripted(**_ENGINE)


# -- arguments -------------------------------------------------------------------------------------


def test_engine_kwargs():
    assert base_engine_kwargs() == {
        "model_path": SMALL_MODEL,
        "chunked_prefill_size": DEFAULT_CHUNK_SIZE,
    }
    assert base_engine_kwargs(model_path="m", chunked_prefill_size=8, page_size=4) == {
        "model_path": "m",
        "chunked_prefill_size": 8,
        "page_size": 4,
    }


def test_the_documented_constants():
    assert (DEFAULT_CHUNK_SIZE, DEFAULT_MAX_STEPS) == (256, 400)
    assert LIFECYCLE_STAGES == (
        "first_chunk",
        "last_chunk",
        "first_decode",
        "mid_decode",
        "last_decode",
    )


# -- until -----------------------------------------------------------------------------------------


def test_run_until_takes_no_step_when_the_predicate_holds(t):
    r = t.start_req(prompt_len=5, max_new_tokens=2)
    yield from run_until(r, lambda h: not h.finished)
    assert t.step_index == 0
    yield from run_until_finished(r)


@pytest.mark.parametrize("max_steps", [1, 5, 20])
def test_run_until_takes_no_more_than_its_steps(t, max_steps):
    r = t.start_req(prompt_len=5, max_new_tokens=200, ignore_eos=True)
    with pytest.raises(StepsExhausted, match=f"after {max_steps} steps") as caught:
        yield from run_until(r, lambda h: h.finished, max_steps=max_steps)
    assert t.step_index == max_steps
    assert isinstance(caught.value, AssertionError)
    assert r.rid in str(caught.value)
    assert "last state" in str(caught.value)
    assert f"output tokens={len(r.output_ids)}" in str(caught.value)


def test_run_until_looks_once_more_after_its_last_step(t):
    r = t.start_req(prompt_len=5, max_new_tokens=3, ignore_eos=True)
    yield from run_until_finished(r, max_steps=3)
    assert r.finished


def test_run_until_finished_counts_any_end(t):
    r = t.start_req(prompt_len=5, max_new_tokens=200, ignore_eos=True)
    yield
    t.abort(r)
    yield from run_until_finished(r)
    assert r.status == "aborted"


def test_run_until_all_finished(t):
    started = [t.start_req(prompt_len=5, max_new_tokens=n, ignore_eos=True) for n in (2, 9, 4)]
    yield from run_until_all_finished(started)
    assert [len(r.output_ids) for r in started] == [2, 9, 4]
    assert t.step_index == 9
    yield from run_until_all_finished([])
    assert t.step_index == 9


def test_run_until_all_finished_names_those_that_have_not(t):
    short = t.start_req(prompt_len=5, max_new_tokens=2, rid="short", ignore_eos=True)
    long = t.start_req(prompt_len=5, max_new_tokens=99, rid="long", ignore_eos=True)
    with pytest.raises(StepsExhausted, match="1 of 2 requests have not ended") as caught:
        yield from run_until_all_finished([short, long], max_steps=6)
    assert "long (running)" in str(caught.value)
    assert "short (" not in str(caught.value)


# -- advance ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("target", [1, 2, 4])
def test_advance_to_nth_chunk_stops_right_there(t, target):
    r = t.start_req(prompt_len=4 * _CHUNK - 3, max_new_tokens=4)
    yield from advance_to_nth_chunk(r, target)
    assert r.chunks_done == target
    assert t.step_index == target


def test_a_chunk_that_does_not_come(t):
    r = t.start_req(prompt_len=2 * _CHUNK, max_new_tokens=2, ignore_eos=True)
    with pytest.raises(StepsExhausted, match=r"chunk 3 was not reached before .* ended"):
        yield from advance_to_nth_chunk(r, 3)
    assert r.finished


def test_a_chunk_that_does_not_come_in_time(t):
    r = t.start_req(prompt_len=9 * _CHUNK, max_new_tokens=2, ignore_eos=True)
    with pytest.raises(StepsExhausted, match="after 4 steps"):
        yield from advance_to_nth_chunk(r, 6, max_steps=4)
    assert r.chunks_done == 4


@pytest.mark.parametrize("target", [1, 3, 7])
def test_advance_to_decode_step_stops_right_there(t, target):
    r = t.start_req(prompt_len=5, max_new_tokens=8, ignore_eos=True)
    yield from advance_to_decode_step(r, target)
    assert len(r.output_ids) == target
    assert not r.finished


def test_the_last_token_counts_although_it_ends_the_request(t):
    r = t.start_req(prompt_len=5, max_new_tokens=4, ignore_eos=True)
    yield from advance_to_decode_step(r, 4)
    assert r.finished


def test_a_token_that_does_not_come(t):
    r = t.start_req(prompt_len=5, max_new_tokens=4, ignore_eos=True)
    with pytest.raises(StepsExhausted, match="output length 5 was not reached before"):
        yield from advance_to_decode_step(r, 5)


@pytest.mark.parametrize(
    ("stage", "middle", "chunks", "outputs"),
    [
        ("first_chunk", 1, 1, 0),
        ("last_chunk", 1, 2, 0),
        ("first_chunk", 3, 1, 0),
        ("last_chunk", 3, 4, 0),
        ("first_decode", 1, 3, 1),
        ("mid_decode", 1, 3, 4),
        ("last_decode", 1, 3, 7),
    ],
)
def test_lifecycle_stages(t, stage, middle, chunks, outputs):
    r = t.start_req(prompt_len=(1 + middle) * _CHUNK + 5, max_new_tokens=8, ignore_eos=True)
    yield from advance_to_lifecycle_stage(r, stage, num_middle_chunks=middle, max_new_tokens=8)
    assert (r.chunks_done, len(r.output_ids)) == (chunks, outputs)
    assert r.is_chunking == (outputs == 0)
    assert not r.finished


def test_an_unknown_stage(t):
    r = t.start_req(prompt_len=5, max_new_tokens=2)
    with pytest.raises(ConfigError, match="unknown stage 'birth'") as caught:
        yield from advance_to_lifecycle_stage(r, "birth")
    assert "first_chunk, last_chunk" in caught.value.hint
    yield from run_until_finished(r)


# -- parked chunks ---------------------------------------------------------------------------------


def test_a_chunk_without_memory_is_parked_and_counted(t):
    r = t.start_req(prompt_len=4 * _CHUNK, max_new_tokens=2, ignore_eos=True)
    yield from advance_to_nth_chunk(r, 2)
    t.exhaust_kv(leave_pages=_CHUNK - 1)
    for parked in range(5):
        yield
        assert (r.chunks_done, r.chunked_parks) == (2, parked + 1)
        assert r.is_chunking
    t.release_exhausted()
    yield from run_until_finished(r)
    assert (r.chunks_done, r.chunked_parks) == (4, 5)


# -- pools -----------------------------------------------------------------------------------------


def test_warmup_radix_leaves_the_prompt_in_the_tree(t):
    tokens = list(range(1, 2 * _CHUNK + 1))
    yield from warmup_radix(t, tokens)
    assert t.engine_stats()["kv_pool_evictable"] == len(tokens)
    r = t.start_req(input_ids=[*tokens, 9], max_new_tokens=1)
    yield from run_until_finished(r)
    assert r.chunks_done == 0


@pytest.mark.scripted(disable_radix_cache=True)
def test_warmup_radix_needs_a_tree(t):
    with pytest.raises(CapabilityMissing, match="prefix_cache"):
        yield from warmup_radix(t, [1, 2])


@pytest.mark.parametrize("leave", [0, 1, _ROWS])
def test_exhaust_row_pool(t, leave):
    ballast = yield from exhaust_row_pool(t, leave_rows=leave)
    assert len(ballast) == _ROWS - leave
    assert t.engine_stats()["req_pool_free"] == leave
    assert all(r.status == "running" for r in ballast)
    for _ in range(50):
        yield
        assert t.engine_stats()["req_pool_free"] == leave
    t.abort_all()
    yield from run_until_all_finished(ballast)
    assert t.engine_stats()["req_pool_free"] == _ROWS


def test_exhaust_row_pool_counts_rows_that_are_taken_already(t):
    own = t.start_req(prompt_len=5, max_new_tokens=300, ignore_eos=True)
    yield
    ballast = yield from exhaust_row_pool(t, leave_rows=1)
    assert len(ballast) == _ROWS - 2
    with pytest.raises(ExhaustError, match="leave_rows=2 is more than the 1 free rows"):
        yield from exhaust_row_pool(t, leave_rows=2)
    assert own.status == "running"


def test_exhaust_row_pool_refuses_what_is_impossible(t):
    with pytest.raises(ConfigError, match="leave_rows=-1"):
        yield from exhaust_row_pool(t, leave_rows=-1)
    with pytest.raises(ExhaustError, match="leave_rows=7 is more than the 6 free rows"):
        yield from exhaust_row_pool(t, leave_rows=_ROWS + 1)


def test_exhaust_row_pool_says_when_the_ballast_does_not_get_in(t):
    t.pause_generation(mode="in_place")
    with pytest.raises(StepsExhausted, match="6 rows are still free after 5 steps"):
        yield from exhaust_row_pool(t, leave_rows=0, max_steps=5)


def test_exhaust_row_pool_of_more_rows_than_tokens_in_the_vocabulary(t, monkeypatch):
    monkeypatch.setattr(t.engine, "vocab_size", 4)
    ballast = yield from exhaust_row_pool(t, leave_rows=1)
    assert len(ballast) == _ROWS - 1
    assert t.engine_stats()["req_pool_free"] == 1


@pytest.mark.parametrize(
    "wait",
    [
        lambda x: run_until(x, lambda h: True),
        run_until_finished,
        lambda x: run_until_all_finished([x]),
        lambda x: advance_to_nth_chunk(x, 1),
        lambda x: advance_to_decode_step(x, 1),
        lambda x: advance_to_lifecycle_stage(x, "first_chunk"),
    ],
)
def test_a_wait_for_what_is_no_request_is_refused(wait):
    with pytest.raises(ConfigError, match="'rid' is not a request handle"):
        next(wait("rid"))
