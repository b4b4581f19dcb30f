"""Abort and pause at every stage of a request's life: no output changes, and no slot is lost."""

from __future__ import annotations

import pytest
from scripted_backend_swa import CHUNK_TOKENS, require_no_locks, sliding_window_kwargs
from scripted_chunked import (
    LIFECYCLE_STAGES,
    advance_to_lifecycle_stage,
    require_at_rest,
    run_steps,
    run_until_all_finished,
    settle,
    undisturbed_output,
)
from scripted_core.views import RequestStatus
from scripted_registry.ci import register_cpu_ci

register_cpu_ci(est_time=7, stage="swa", runner_config="cpu")
register_cpu_ci(est_time=60, stage="swa-sglang", runner_config="cpu")

pytestmark = [
    pytest.mark.scripted_requires("swa", "chunked_prefill"),
    pytest.mark.parametrize(
        "pages",
        [
            pytest.param(1, marks=pytest.mark.scripted(**sliding_window_kwargs())),
            pytest.param(16, marks=pytest.mark.scripted(**sliding_window_kwargs(page_size=16))),
        ],
    ),
]

_NEW_TOKENS = 8
_PROMPT_LEN = 4 * CHUNK_TOKENS
_NEIGHBOUR_LEN = 90


@pytest.mark.parametrize("stage", LIFECYCLE_STAGES)
@pytest.mark.parametrize("mode", ["retract", "in_place"])
def test_pause(t, pages, mode, stage):
    expected = yield from _undisturbed(t)
    handles = _start(t)
    yield from _advance(handles[0], stage)
    t.pause_generation(mode=mode)
    yield from run_steps(3)
    t.continue_generation()
    yield from run_until_all_finished(handles)
    assert [handle.output_ids for handle in handles] == expected
    yield from settle(t)
    require_at_rest(t)
    require_no_locks(t)


@pytest.mark.parametrize("stage", LIFECYCLE_STAGES)
def test_abort(t, pages, stage):
    expected = yield from _undisturbed(t)
    handles = _start(t)
    yield from _advance(handles[0], stage)
    t.abort(handles[0])
    again = t.start_req(prompt_len=_PROMPT_LEN, seed=1, max_new_tokens=_NEW_TOKENS, ignore_eos=True)
    yield from run_until_all_finished([*handles, again])
    if stage != "last_decode":  # an engine that overlaps has the last token under way by then
        assert handles[0].status is RequestStatus.ABORTED
    assert handles[1].output_ids == expected[1]
    assert again.output_ids == expected[0], "it found in the prefix tree what the first one left"
    yield from settle(t)
    require_at_rest(t)
    require_no_locks(t)


def _undisturbed(t):
    outputs = []
    for prompt_len, seed in ((_PROMPT_LEN, 1), (_NEIGHBOUR_LEN, 2)):
        output = yield from undisturbed_output(
            t, prompt_len=prompt_len, seed=seed, max_new_tokens=_NEW_TOKENS
        )
        outputs.append(output)
    return outputs


def _start(t):
    return [
        t.start_req(prompt_len=n, seed=seed, max_new_tokens=_NEW_TOKENS, ignore_eos=True)
        for n, seed in ((_PROMPT_LEN, 1), (_NEIGHBOUR_LEN, 2))
    ]


def _advance(handle, stage):
    yield from advance_to_lifecycle_stage(
        handle, stage, num_middle_chunks=1, max_new_tokens=_NEW_TOKENS
    )
