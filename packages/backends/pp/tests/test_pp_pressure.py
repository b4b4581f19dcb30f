"""Scarce memory on every stage: requests are retracted out of any slot, and no output changes."""

from __future__ import annotations

import pytest
from scripted_backend_pp import CHUNK_TOKENS, pipeline_kwargs, require_ranks_alike
from scripted_chunked import (
    LIFECYCLE_STAGES,
    advance_to_lifecycle_stage,
    require_at_rest,
    run_steps,
    run_until_all_finished,
    settle,
    undisturbed_output,
    warmup_radix,
)
from scripted_core.views import RequestStatus
from scripted_registry.ci import register_cpu_ci

register_cpu_ci(est_time=5, stage="pp", runner_config="cpu")
register_cpu_ci(est_time=60, stage="pp-sglang", runner_config="cpu")

pytestmark = [
    pytest.mark.scripted(**pipeline_kwargs()),
    pytest.mark.scripted_requires("pp", "chunked_prefill"),
]
_LENGTHS = (40, 41, 42, 43, 200)
_NEW_TOKENS = 40


def _undisturbed(t, lengths=_LENGTHS, new_tokens=_NEW_TOKENS):
    outputs = []
    for prompt_len in lengths:
        output = yield from undisturbed_output(
            t, prompt_len=prompt_len, seed=prompt_len, max_new_tokens=new_tokens
        )
        outputs.append(output)
    return outputs


def _start(t, lengths=_LENGTHS, new_tokens=_NEW_TOKENS):
    return [
        t.start_req(prompt_len=n, seed=n, max_new_tokens=new_tokens, ignore_eos=True)
        for n in lengths
    ]


def test_decoding_on_few_pages(t):
    expected = yield from _undisturbed(t)
    # Room for the largest alone: the others take turns, or are retracted.
    t.exhaust_kv(leave_pages=_LENGTHS[-1] + _NEW_TOKENS + 8, evictable="evict")
    yield
    handles = _start(t)
    yield from run_until_all_finished(handles, max_steps=3000)
    assert [handle.output_ids for handle in handles] == expected
    t.release_exhausted()
    yield from settle(t)
    require_at_rest(t)
    require_ranks_alike(t)


def test_pages_are_taken_from_running_requests(t):
    lengths = _LENGTHS[:4]
    expected = yield from _undisturbed(t, lengths)
    handles = _start(t, lengths)
    yield from run_steps(24)
    assert len(t.queues.running) == len(lengths)
    t.exhaust_kv(leave_pages=12, evictable="evict")
    retracted = set()
    for _ in range(60):
        yield
        retracted |= set(t.queues.waiting)
    t.release_exhausted()
    yield from run_until_all_finished(handles, max_steps=3000)
    assert retracted, "twelve pages are too few for four requests"
    assert [handle.output_ids for handle in handles] == expected
    yield from settle(t)
    require_at_rest(t)
    require_ranks_alike(t)


@pytest.mark.scripted_requires("row_pool")
def test_one_row_is_left(t):
    lengths = _LENGTHS[:3]
    expected = yield from _undisturbed(t, lengths, 8)
    t.exhaust("rows", leave_rows=1)
    yield
    handles = _start(t, lengths, 8)
    yield from run_until_all_finished(handles, max_steps=1000)
    assert [handle.output_ids for handle in handles] == expected
    t.release_exhausted()
    yield from settle(t)
    require_at_rest(t)


@pytest.mark.scripted_requires("prefix_cache", "lock_refs")
def test_locked_prefixes_stay_on_every_stage(t):
    vocab = t.engine.vocab_size
    prompt = [4 + (13 * i) % (vocab - 4) for i in range(100)]
    yield from warmup_radix(t, prompt)
    yield from settle(t)
    t.exhaust_lock_refs(leave_refs=0)
    yield
    assert t.engine_stats()["kv_pool_evictable"] == 0
    t.evict_radix()
    yield
    assert t.get_all_node_lock_refs()
    require_ranks_alike(t)
    t.release_exhausted()
    yield
    t.evict_radix()
    yield
    assert not t.get_all_node_lock_refs()
    require_at_rest(t)


_missed = pytest.mark.scripted_known_defect(
    engine="sglang",
    releases="<0.5.16",
    finding="docs/findings/sglang-pp-abort-of-another-slot.md",
    match="RequestStatus.FINISHED",
)


@pytest.mark.parametrize(
    ("what", "stage"),
    [
        pytest.param(
            what, stage, marks=_missed if (what, stage) == ("abort", "first_decode") else ()
        )
        for what in ("abort", "retract", "in_place")
        for stage in LIFECYCLE_STAGES
    ],
)
def test_at_every_stage_of_a_life(t, what, stage):
    lengths, new_tokens = (3 * CHUNK_TOKENS, 50), 8
    expected = yield from _undisturbed(t, lengths, new_tokens)
    handles = _start(t, lengths, new_tokens)
    yield from advance_to_lifecycle_stage(
        handles[0], stage, num_middle_chunks=1, max_new_tokens=new_tokens
    )
    if what == "abort":
        t.abort(handles[0])
    else:
        t.pause_generation(mode=what)
        yield from run_steps(8)
        t.continue_generation()
    yield from run_until_all_finished(handles)
    if what == "abort":
        over = stage == "last_decode" and handles[0].status is RequestStatus.FINISHED
        assert over or handles[0].status is RequestStatus.ABORTED
    else:
        assert handles[0].output_ids == expected[0]
    assert handles[1].output_ids == expected[1]
    yield from settle(t)
    require_at_rest(t)
    require_ranks_alike(t)
