"""What the package itself brings: arguments, steps and CI stages."""

from __future__ import annotations

import pytest
from scripted_backend_swa import (
    CHUNK_TOKENS,
    fill_window_pool,
    park_a_candidate,
    require_no_locks,
    sliding_window_kwargs,
    trained_window_kwargs,
)
from scripted_chunked import advance_to_decode_step
from scripted_core.errors import StepsExhausted
from scripted_registry import get_plugin_manager
from scripted_registry.ci import register_cpu_ci

register_cpu_ci(est_time=2, stage="swa", runner_config="cpu")

pytestmark = [
    pytest.mark.scripted(**sliding_window_kwargs()),
    pytest.mark.scripted_requires("swa"),
]


def test_overrides_win():
    chosen = sliding_window_kwargs(max_running_requests=3, page_size=4)
    assert (chosen["max_running_requests"], chosen["page_size"]) == (3, 4)
    assert chosen["chunked_prefill_size"] == CHUNK_TOKENS
    assert trained_window_kwargs()["model_path"] == "tiny"
    assert trained_window_kwargs(model_path="hash")["model_path"] == "hash"


def test_the_stages_are_registered():
    stages = get_plugin_manager().ci_stages()
    for name, engine in (("swa-test-cpu", "reference"), ("swa-sglang-test-cpu", "sglang")):
        assert stages[name].engine == engine
        assert stages[name].distribution == "scripted-backend-swa"
        assert f"--scripted-backend {engine}" in stages[name].command


def test_steps_that_do_not_get_there_say_so(t):
    with pytest.raises(StepsExhausted, match="pages are left beside 1 requests"):
        yield from fill_window_pool(t, most=1)
    with pytest.raises(StepsExhausted, match="none of 1 requests had to wait"):
        yield from park_a_candidate(t, most=1)


def test_locks_are_seen(t):
    r = t.start_req(prompt_len=100, seed=3, max_new_tokens=20, ignore_eos=True)
    yield from advance_to_decode_step(r, 2)
    with pytest.raises(AssertionError, match="nodes are locked"):
        require_no_locks(t)
