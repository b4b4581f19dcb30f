"""Microbatch slots: which request is in which, when a result arrives, what reaches every slot."""

from __future__ import annotations

import pytest
from scripted_backend_pp import (
    deep_pipeline_kwargs,
    pipeline_kwargs,
    require_ranks_alike,
    run_turns,
    slots_of,
)
from scripted_chunked import (
    require_at_rest,
    run_until,
    run_until_all_finished,
    settle,
    undisturbed_output,
)
from scripted_core.views import ForwardMode, RequestStatus
from scripted_registry.ci import register_cpu_ci

register_cpu_ci(est_time=8, stage="pp", runner_config="cpu")

pytestmark = [
    pytest.mark.scripted_requires("pp", "sglang_names"),
    pytest.mark.parametrize(
        ("pp_size", "depth"),
        [
            pytest.param(2, 0, marks=pytest.mark.scripted(**pipeline_kwargs())),
            pytest.param(4, 2, marks=pytest.mark.scripted(**deep_pipeline_kwargs())),
        ],
    ),
]
_MANY = 8
_NEW_TOKENS = 20


def _start_many(t, count=_MANY):
    return [
        t.start_req(prompt_len=10 + seed, seed=seed, max_new_tokens=_NEW_TOKENS, ignore_eos=True)
        for seed in range(count)
    ]


def _until_all_decode(t, handles):
    for handle in handles:
        yield from run_until(handle, lambda h: len(h.output_ids) > 0)


def test_a_result_arrives_a_turn_but_one_late(t, pp_size, depth):
    slots = slots_of(t)
    assert slots == pp_size + depth
    r = t.start_req(prompt_len=10, seed=1, max_new_tokens=4, ignore_eos=True)
    yield from run_until_all_finished([r])
    launched = [record.step for record in t.batch_log]
    assert launched == [launched[0] + i * slots for i in range(4)], "it decodes once in a turn"
    assert t.step_index == launched[-1] + slots - 1


def test_requests_spread_over_the_slots(t, pp_size, depth):
    handles = _start_many(t)
    yield from _until_all_decode(t, handles)
    scheduler = t.scheduler
    sizes = [len(batch.reqs) for batch in scheduler.running_mbs]
    assert sum(sizes) == _MANY
    assert max(sizes) == _MANY // pp_size
    assert sum(size > 0 for size in sizes) >= pp_size
    first = t.step_index
    yield from run_turns(t, 1)
    decodes = [r for r in t.batch_log if r.step > first and r.mode is ForwardMode.DECODE]
    assert [rid for record in decodes for rid in record.rids].count(handles[0].rid) == 1
    assert sorted(rid for record in decodes for rid in record.rids) == sorted(
        handle.rid for handle in handles
    )
    assert sum(batch is not None for batch in scheduler.mbs) == len(decodes)
    assert sum(batch is not None for batch in scheduler.last_mbs) >= len(decodes)


def test_a_retraction_reaches_every_slot(t, pp_size, depth):
    expected = []
    for seed in range(_MANY):
        output = yield from undisturbed_output(
            t, prompt_len=10 + seed, seed=seed, max_new_tokens=_NEW_TOKENS
        )
        expected.append(output)
    handles = _start_many(t)
    yield from _until_all_decode(t, handles)
    t.pause_generation(mode="retract")
    yield from run_turns(t, 2)
    assert sorted(t.queues.waiting) == sorted(handle.rid for handle in handles)
    assert all(not batch.reqs for batch in t.scheduler.running_mbs)
    assert {handle.kv_pages for handle in handles} == {0}
    t.continue_generation()
    yield from run_until_all_finished(handles)
    assert [handle.output_ids for handle in handles] == expected
    yield from settle(t)
    require_at_rest(t)
    require_ranks_alike(t)


def test_an_abort_reaches_each_slot(t, pp_size, depth):
    expected = []
    for seed in range(_MANY):
        output = yield from undisturbed_output(
            t, prompt_len=10 + seed, seed=seed, max_new_tokens=_NEW_TOKENS
        )
        expected.append(output)
    handles = _start_many(t)
    yield from _until_all_decode(t, handles)
    for handle in handles[::2]:
        t.abort(handle)
        yield
        require_ranks_alike(t)
    yield from run_until_all_finished(handles)
    for i, handle in enumerate(handles):
        if i % 2 == 0:
            assert handle.status is RequestStatus.ABORTED
            assert handle.output_ids == expected[i][: len(handle.output_ids)]
        else:
            assert handle.output_ids == expected[i]
    yield from settle(t)
    require_at_rest(t)


@pytest.mark.parametrize("mode", ["retract", "in_place"])
def test_what_is_aborted_during_a_pause_ends(t, pp_size, depth, mode):
    handles = _start_many(t, 4)
    yield from _until_all_decode(t, handles)
    t.pause_generation(mode=mode)
    t.abort(handles[0])
    yield
    t.abort(handles[1])
    yield from run_turns(t, 1)
    t.abort(handles[2])
    yield from run_turns(t, 1)
    t.continue_generation()
    yield from run_until_all_finished(handles)
    assert [handle.status for handle in handles[:3]] == [RequestStatus.ABORTED] * 3
    assert handles[3].status is RequestStatus.FINISHED
    yield from settle(t)
    require_at_rest(t)
    require_ranks_alike(t)
