"""The trained checkpoint says the same on every engine, token for token, whatever happens to it."""

from __future__ import annotations

import importlib.util

import pytest
from scripted_backend_single import (
    PRESSURES,
    SCENARIOS,
    require_at_rest,
    require_undisturbed,
    run_scenario,
    single_device_kwargs,
    undisturbed_outputs,
)
from scripted_chunked import advance_to_decode_step, advance_to_nth_chunk, run_until_all_finished
from scripted_core import InProcessSession
from scripted_registry.ci import register_cpu_ci

register_cpu_ci(est_time=5, stage="single", runner_config="cpu")
register_cpu_ci(est_time=60, stage="single-sglang", runner_config="cpu")

pytestmark = [
    pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="torch is not installed"),
    pytest.mark.scripted(**single_device_kwargs(model_path="tiny")),
]

_PROMPT_LENS = (20, 100, 257)
_NEW_TOKENS = 24


def _start(t):
    return [
        t.start_req(prompt_len=n, seed=n, max_new_tokens=_NEW_TOKENS, ignore_eos=True)
        for n in _PROMPT_LENS
    ]


def _on_the_reference_engine(script):
    # Whole prompts, no prefix tree: nothing but the model decides.
    kwargs = single_device_kwargs(
        model_path="tiny", chunked_prefill_size=-1, disable_radix_cache=True
    )
    with InProcessSession.start(backend="reference", **kwargs) as session:
        session.execute_script(script)


@pytest.fixture(scope="module")
def expected():
    """What the reference engine answers, one request after the other, in this process."""
    outputs = []

    def script(t):
        handles = _start(t)
        yield from run_until_all_finished(handles)
        outputs.extend(handle.output_ids for handle in handles)

    _on_the_reference_engine(script)
    assert len({tuple(output) for output in outputs}) == len(_PROMPT_LENS)
    return outputs


def test_outputs_are_those_of_the_reference_engine(t, expected):
    handles = _start(t)
    yield from run_until_all_finished(handles)
    assert [handle.output_ids for handle in handles] == expected


def test_a_retraction_changes_none_of_them(t, expected):
    handles = _start(t)
    yield from advance_to_nth_chunk(handles[-1], 2)
    t.pause_generation(mode="retract")
    yield
    t.continue_generation()
    yield from advance_to_decode_step(handles[-1], 5)
    t.pause_generation(mode="retract")
    yield
    t.continue_generation()
    yield from run_until_all_finished(handles)
    assert [handle.output_ids for handle in handles] == expected


# -- under pressure ------------------------------------------------------------------------------

# Prompts of several chunks, shared prefixes, equal prompts, long outputs, and retraction by a pause.
_SCENARIOS = ("queue_of_chunked", "shared_prefix", "twins", "long_decodes", "repeated_retraction")


@pytest.fixture(scope="module")
def of_the_reference_engine():
    """What it answers to the prompts of each scenario, one after the other."""
    outputs = {}

    def script(t):
        for name in _SCENARIOS:
            alone = []
            for prompt in SCENARIOS[name].prompts:
                handle = prompt.start(t)
                yield from run_until_all_finished([handle])
                alone.append(handle.output_ids)
            outputs[name] = alone

    _on_the_reference_engine(script)
    return outputs


@pytest.mark.parametrize("scenario", _SCENARIOS)
def test_undisturbed_outputs_are_those_of_the_reference_engine(
    t, scenario, of_the_reference_engine
):
    alone = yield from undisturbed_outputs(t, SCENARIOS[scenario].prompts)
    assert alone == of_the_reference_engine[scenario]


@pytest.mark.parametrize("scenario", _SCENARIOS)
@pytest.mark.parametrize("pressure", list(PRESSURES))
def test_outputs_under_pressure_are_those_of_the_reference_engine(
    t, pressure, scenario, of_the_reference_engine
):
    chosen = SCENARIOS[scenario]
    run = yield from run_scenario(t, chosen, PRESSURES[pressure])
    require_undisturbed(chosen, run.handles, of_the_reference_engine[scenario])
    if pressure == "kv_churn" and scenario == "long_decodes":
        assert run.retracted, "nothing was retracted: the pressure did not press"
    require_at_rest(t)
