"""A prompt whose next chunk finds no room in the window pool waits, and nothing of it is lost."""

from __future__ import annotations

import pytest
from scripted_backend_swa import (
    CHUNK_TOKENS,
    fill_window_pool,
    park_a_candidate,
    require_no_locks,
    sliding_window_kwargs,
)
from scripted_chunked import (
    require_at_rest,
    run_steps,
    run_until_all_finished,
    settle,
    undisturbed_output,
)
from scripted_core.errors import StepsExhausted
from scripted_core.views import RequestStatus
from scripted_registry.ci import register_cpu_ci

register_cpu_ci(est_time=5, stage="swa", runner_config="cpu")
register_cpu_ci(est_time=25, stage="swa-sglang", runner_config="cpu")

pytestmark = [
    pytest.mark.scripted(**sliding_window_kwargs()),
    pytest.mark.scripted_requires("swa", "chunked_prefill"),
]


def test_a_parked_candidate_is_aborted_with_everything_else(t):
    decoders = yield from fill_window_pool(t)
    parked, candidates = yield from _park(t)
    assert parked.chunked_parks > 0
    assert 0 < parked.chunks_done < 6
    t.abort_all()
    everything = [*decoders, *candidates]
    yield from run_until_all_finished(everything)
    assert {handle.status for handle in everything} <= {
        RequestStatus.ABORTED,
        RequestStatus.FINISHED,
    }
    assert parked.status is RequestStatus.ABORTED
    yield from settle(t)
    require_at_rest(t)
    require_no_locks(t)
    # What was given back can be had again: a second round finds the same pools.
    again = yield from undisturbed_output(t, prompt_len=200, seed=2000, max_new_tokens=4)
    assert len(again) == 4
    require_at_rest(t)


def test_a_parked_candidate_goes_on_when_a_decoder_ends(t):
    expected = yield from undisturbed_output(
        t, prompt_len=6 * CHUNK_TOKENS, seed=2000, max_new_tokens=8
    )
    decoders = yield from fill_window_pool(t)
    parked, candidates = yield from _park(t)
    chunks = parked.chunks_done
    parks = parked.chunked_parks
    yield from run_steps(4)
    assert parked.chunks_done == chunks, "nobody gave window slots back"
    assert parked.chunked_parks == parks + 4
    for decoder in decoders[:3]:
        t.abort(decoder)
    yield from run_until_all_finished(candidates)
    assert candidates[0].output_ids == expected
    for decoder in decoders:
        assert decoder.status in (RequestStatus.RUNNING, RequestStatus.ABORTED)
    t.abort_all()
    yield from run_until_all_finished(decoders)
    yield from settle(t)
    require_at_rest(t)
    require_no_locks(t)


def test_a_parked_candidate_that_is_retracted_starts_over(t):
    expected = yield from undisturbed_output(
        t, prompt_len=6 * CHUNK_TOKENS, seed=2000, max_new_tokens=8
    )
    decoders = yield from fill_window_pool(t)
    parked, candidates = yield from _park(t)
    assert parked.kv_pages > 0
    t.pause_generation(mode="retract")
    yield from run_steps(3)
    assert parked.status is RequestStatus.WAITING
    assert parked.kv_pages == 0
    for decoder in decoders:
        t.abort(decoder)
    t.continue_generation()
    yield from run_until_all_finished([*decoders, *candidates])
    assert candidates[0].output_ids == expected
    yield from settle(t)
    require_at_rest(t)
    require_no_locks(t)


def _park(t):
    try:
        return (yield from park_a_candidate(t))
    except StepsExhausted:
        if t.queues.chunked:
            raise
    pytest.skip("needs an engine that begins a prompt whose next chunk may find no room")


def test_a_full_window_pool_is_aborted_and_drained(t):
    """On any engine: candidates come upon a full pool, wherever each of them then has to wait."""
    expected = yield from undisturbed_output(t, prompt_len=200, seed=3000, max_new_tokens=4)
    decoders = yield from fill_window_pool(t)
    candidates = [
        t.start_req(prompt_len=6 * CHUNK_TOKENS, seed=seed, max_new_tokens=8, ignore_eos=True)
        for seed in range(4)
    ]
    yield from run_steps(12)
    assert not all(handle.finished for handle in candidates)
    t.abort_all()
    yield from run_until_all_finished([*decoders, *candidates])
    yield from settle(t)
    require_at_rest(t)
    require_no_locks(t)
    again = yield from undisturbed_output(t, prompt_len=200, seed=3000, max_new_tokens=4)
    assert again == expected
    require_at_rest(t)
