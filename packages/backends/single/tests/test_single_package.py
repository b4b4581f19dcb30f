"""What the package itself brings: arguments, steps and CI stages."""

from __future__ import annotations

import pytest
from scripted_backend_single import (
    CHUNK_TOKENS,
    PAGE_TOKENS,
    flush,
    paged_device_kwargs,
    require_at_rest,
    run_steps,
    settle,
    single_device_kwargs,
    undisturbed_output,
)
from scripted_core.errors import StepsExhausted
from scripted_registry import get_plugin_manager
from scripted_registry.ci import register_cpu_ci

register_cpu_ci(est_time=1, stage="single", runner_config="cpu")

pytestmark = pytest.mark.scripted(**single_device_kwargs())


def test_overrides_win_and_defaults_are_not_shared():
    chosen = single_device_kwargs(max_running_requests=3, page_size=4)
    assert (chosen["max_running_requests"], chosen["page_size"]) == (3, 4)
    assert chosen["chunked_prefill_size"] == CHUNK_TOKENS
    assert single_device_kwargs()["max_running_requests"] == 8
    assert paged_device_kwargs() == {**single_device_kwargs(), "page_size": PAGE_TOKENS}
    assert paged_device_kwargs(page_size=4)["page_size"] == 4


def test_the_stages_are_registered():
    stages = get_plugin_manager().ci_stages()
    assert stages["single-test-cpu"].engine == "reference"
    assert stages["single-sglang-test-cpu"].engine == "sglang"
    for stage in (stages["single-test-cpu"], stages["single-sglang-test-cpu"]):
        assert stage.distribution == "scripted-backend-single"
        assert f"--scripted-backend {stage.engine}" in stage.command
        assert "{tests}" in stage.command


def test_run_steps_takes_exactly_so_many(t):
    yield from run_steps(5)
    assert t.step_index == 5
    yield from run_steps(0)
    assert t.step_index == 5


def test_settle_takes_no_step_at_rest_and_gives_up_otherwise(t):
    yield from settle(t)
    assert t.step_index == 0
    r = t.start_req(prompt_len=10, max_new_tokens=100, ignore_eos=True)
    with pytest.raises(StepsExhausted, match="not at rest after 4 steps"):
        yield from settle(t, max_steps=4)
    assert t.step_index == 4
    with pytest.raises(AssertionError, match="not at rest"):
        require_at_rest(t)
    t.abort(r)
    yield from settle(t)
    require_at_rest(t)


def test_require_at_rest_counts_what_is_held(t):
    t.exhaust_kv(leave_pages=10)
    yield
    with pytest.raises(AssertionError, match="KV pages are missing from pool 'full'"):
        require_at_rest(t)
    t.release_exhausted()
    t.exhaust("rows", leave_rows=2)
    yield
    with pytest.raises(AssertionError, match="request rows are missing"):
        require_at_rest(t)


def test_an_undisturbed_output_is_repeatable_and_leaves_nothing(t):
    first = yield from undisturbed_output(t, prompt_len=90, seed=1, max_new_tokens=6)
    assert t.get_all_node_hit_counts() == {}
    again = yield from undisturbed_output(t, prompt_len=90, seed=1, max_new_tokens=6)
    other = yield from undisturbed_output(t, prompt_len=90, seed=2, max_new_tokens=6)
    assert first == again
    assert first != other


def test_flush_does_not_ask_a_busy_engine(t):
    r = t.start_req(prompt_len=10, max_new_tokens=100, ignore_eos=True)
    with pytest.raises(StepsExhausted, match="not at rest"):
        yield from flush(t)
    t.abort(r)
    yield from flush(t)
    assert t.get_all_node_hit_counts() == {}
