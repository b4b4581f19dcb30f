"""What the package itself brings: arguments, steps and CI stages."""

from __future__ import annotations

import pytest
from scripted_backend_pp import (
    CHUNK_TOKENS,
    deep_pipeline_kwargs,
    launch_whole_prompt,
    pipeline_kwargs,
    until_drained,
)
from scripted_chunked import run_until_finished
from scripted_core.errors import StepsExhausted
from scripted_registry import get_plugin_manager
from scripted_registry.ci import register_cpu_ci

register_cpu_ci(est_time=2, stage="pp", runner_config="cpu")

pytestmark = [
    pytest.mark.scripted(**pipeline_kwargs()),
    pytest.mark.scripted_requires("pp"),
]


def test_overrides_win():
    assert pipeline_kwargs(pp_size=3)["pp_size"] == 3
    assert pipeline_kwargs()["chunked_prefill_size"] == CHUNK_TOKENS
    deep = deep_pipeline_kwargs(page_size=4)
    assert (deep["pp_size"], deep["pp_async_batch_depth"], deep["page_size"]) == (4, 2, 4)


def test_the_stages_are_registered():
    stages = get_plugin_manager().ci_stages()
    for name, engine in (("pp-test-cpu", "reference"), ("pp-sglang-test-cpu", "sglang")):
        assert stages[name].engine == engine
        assert stages[name].distribution == "scripted-backend-pp"
        assert f"--scripted-backend {engine}" in stages[name].command


def test_steps_that_do_not_get_there_say_so(t):
    r = t.start_req(prompt_len=3 * CHUNK_TOKENS, max_new_tokens=400, ignore_eos=True)
    with pytest.raises(AssertionError, match="is not in flight"):
        yield from launch_whole_prompt(t, r, chunks=2)
    with pytest.raises(StepsExhausted, match="was not put back after 32 steps"):
        yield from until_drained(t, r)
    t.abort(r)
    yield from run_until_finished(r)
