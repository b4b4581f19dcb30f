"""That the pressures press, that the comparison can fail, and that the selection covers."""

from __future__ import annotations

from itertools import combinations

import pytest
from scripted_backend_single import (
    PRESSURES,
    SCENARIOS,
    Choice,
    Configuration,
    Prompt,
    all_cases,
    all_configurations,
    covering_cases,
    engine_axes,
    pairwise_configurations,
    require_undisturbed,
    run_scenario,
    run_steps,
    single_device_kwargs,
    undisturbed_outputs,
)
from scripted_backend_single.pressures import pages_of_the_largest
from scripted_chunked import run_until_all_finished
from scripted_core.errors import ConfigError
from scripted_registry.ci import register_cpu_ci

register_cpu_ci(est_time=3, stage="single", runner_config="cpu")
register_cpu_ci(est_time=40, stage="single-sglang", runner_config="cpu")

pytestmark = pytest.mark.scripted(**single_device_kwargs())

_CROWD = SCENARIOS["crowd"]
_LONG = SCENARIOS["long_decodes"]


# -- pressures -----------------------------------------------------------------------------------


def _run(t, scenario, pressure):
    run = yield from run_scenario(t, scenario, PRESSURES[pressure])
    return run


@pytest.mark.parametrize("pressure", ["kv_free", "kv_evictable", "rows", "ballast"])
def test_requests_wait_for_what_is_scarce(t, pressure):
    free = yield from _run(t, _CROWD, "none")
    scarce = yield from _run(t, _CROWD, pressure)
    assert scarce.waiting_steps > 2 * free.waiting_steps


@pytest.mark.parametrize("pressure", ["kv_free", "kv_evictable", "lock_refs"])
def test_pages_run_short(t, pressure):
    run = yield from _run(t, _LONG, pressure)
    assert run.least_pages < pages_of_the_largest(t, _LONG) // 2


def test_pages_have_to_be_evicted(t):
    applied = yield from PRESSURES["kv_evictable"].apply(t, _LONG)
    foreign = len(t.get_all_node_hit_counts())
    assert foreign >= 2
    # An engine evicts whole nodes, so a part of the last one may be free.
    assert t.engine_stats()["kv_pool_free"] < _LONG.prompts[0].prompt_len
    handle = _LONG.prompts[0].start(t)
    yield from run_steps(2)
    assert handle.status == "running"
    assert len(t.get_all_node_hit_counts()) <= foreign, "its prompt is in, and nothing is out"
    assert t.engine_stats()["kv_pool_evictable"] < pages_of_the_largest(t, _LONG) // 2
    yield from run_until_all_finished([handle])
    yield from applied.relieve()


def test_running_requests_lose_their_pages(t):
    run = yield from _run(t, _LONG, "none")
    assert run.retracted == set()
    run = yield from _run(t, _LONG, "kv_churn")
    assert run.retracted, "nothing was retracted"


def test_nothing_in_the_tree_can_be_evicted(t):
    applied = yield from PRESSURES["lock_refs"].apply(t, _LONG)
    assert t.engine_stats()["kv_pool_evictable"] == 0
    refs = t.get_all_node_lock_refs()
    assert len(refs) >= len(_LONG.prompts)
    assert min(refs.values()) >= 1
    t.evict_radix()
    yield
    assert t.get_all_node_lock_refs() == refs
    yield from applied.relieve()
    assert set(t.get_all_node_lock_refs().values()) == {0}


@pytest.mark.parametrize("pressure", ["rows", "ballast"])
def test_requests_take_turns_at_one_row(t, pressure):
    run = yield from _run(t, _LONG, pressure)
    ours = {handle.rid for handle in run.handles}
    batches = [record for record in t.batch_log if ours & set(record.rids)]
    assert all(len(ours & set(record.rids)) == 1 for record in batches)
    shared = [record for record in batches if set(record.rids) - ours]
    assert bool(shared) == (pressure == "ballast"), "ballast is there to share batches"


@pytest.mark.parametrize("pressure", list(PRESSURES))
def test_a_pressure_is_gone_when_it_is_relieved(t, pressure):
    before = t.engine_stats()
    yield from _run(t, SCENARIOS["smoke"], pressure)
    after = t.engine_stats()
    assert after["kv_pool_free"] + after["kv_pool_evictable"] == before["kv_pool_total"]
    assert after["req_pool_free"] == before["req_pool_total"]
    assert set(t.get_all_node_lock_refs().values()) <= {0}


# -- the comparison ------------------------------------------------------------------------------


def test_a_wrong_output_is_found_and_the_request_named(t):
    scenario = SCENARIOS["queue_of_chunked"]
    undisturbed = yield from undisturbed_outputs(t, scenario.prompts)
    run = yield from run_scenario(t, scenario, PRESSURES["none"])
    require_undisturbed(scenario, run.handles, undisturbed)
    wrong = [list(output) for output in undisturbed]
    wrong[1][-1] += 1
    with pytest.raises(AssertionError, match=r"request 1, .* of scenario 'queue_of_chunked'"):
        require_undisturbed(scenario, run.handles, wrong)
    with pytest.raises(AssertionError, match="request 0, "):
        require_undisturbed(scenario, run.handles, [undisturbed[1], *undisturbed[1:]])


def test_only_an_aborted_request_may_fall_short(t):
    scenario = SCENARIOS["queue_of_chunked"]
    undisturbed = yield from undisturbed_outputs(t, scenario.prompts)
    handles = [prompt.start(t) for prompt in scenario.prompts]
    yield from run_steps(2)
    t.abort(handles[1])
    yield from run_until_all_finished(handles)
    with pytest.raises(AssertionError, match=r"request 1, .* ended by"):
        require_undisturbed(scenario, handles, undisturbed)


def test_prompts_of_a_scenario_differ_or_are_meant_to_be_equal(t):
    yield
    for scenario in SCENARIOS.values():
        prompts = [tuple(p.input_ids(vocab_size=t.engine.vocab_size)) for p in scenario.prompts]
        assert [len(ids) for ids in prompts] == [p.prompt_len for p in scenario.prompts]
        assert len(set(prompts)) == (1 if scenario.name == "twins" else len(prompts))
        shared = scenario.name in ("twins", "shared_prefix")
        assert len({ids[0] for ids in prompts}) == 1 or not shared


def test_a_shared_prefix_ends_where_it_says():
    one, other = (
        Prompt(prompt_len=60, seed=seed, shared_tokens=20, shared_seed=9).input_ids(vocab_size=500)
        for seed in (1, 2)
    )
    assert one[:20] == other[:20]
    assert one[20] != other[20]


# -- the selection -------------------------------------------------------------------------------


def _axis(name, n):
    return [Choice(label=f"{name}{i}", kwargs={name: i}) for i in range(n)]


@pytest.mark.parametrize("sizes", [(2,), (2, 2), (2, 2, 2, 2), (3, 2, 2), (2, 3, 4)])
def test_pairwise_covers_every_pair_with_few(sizes):
    axes = [_axis(name, n) for name, n in zip("abcd", sizes, strict=False)]
    chosen = pairwise_configurations(axes)
    assert chosen == pairwise_configurations(axes)
    for (i, one), (j, other) in combinations(enumerate(axes), 2):
        met = {(c.choices[i].label, c.choices[j].label) for c in chosen}
        assert len(met) == len(one) * len(other)
    largest = sorted(sizes)[-2:]
    assert len(chosen) <= largest[0] * largest[-1] + 2
    assert len(all_configurations(axes)) >= len(chosen)


@pytest.mark.parametrize("backend", [None, "reference", "reference:server", "sglang", "another"])
def test_the_default_run_has_every_pair(backend):
    axes = engine_axes(backend)
    configurations = pairwise_configurations(axes)
    cases = covering_cases(list(SCENARIOS), list(PRESSURES), configurations)
    assert {(c.scenario, c.pressure) for c in cases} == {
        (s, p) for s in SCENARIOS for p in PRESSURES
    }
    assert len(cases) == len(SCENARIOS) * len(PRESSURES)
    for names in (
        {(c.scenario, c.configuration.label) for c in cases},
        {(c.pressure, c.configuration.label) for c in cases},
    ):
        assert len(names) == len({name for name, _ in names}) * len(configurations)
    assert len({case.label for case in cases}) == len(cases)
    order = [case.configuration.label for case in cases]
    assert order == sorted(order, key=order.index), "an engine would be started twice"


def test_the_full_product_is_larger_and_has_no_repeats():
    axes = engine_axes("reference", full=True)
    cases = all_cases(list(SCENARIOS), list(PRESSURES), all_configurations(axes))
    assert len({case.label for case in cases}) == len(cases)
    assert len(cases) >= len(SCENARIOS) * len(PRESSURES) * 8


def test_too_few_scenarios_for_the_engines_are_refused():
    configurations = all_configurations([_axis("a", 3)])
    with pytest.raises(ConfigError, match="3 configurations cannot all meet 2 scenarios"):
        covering_cases(["x", "y"], ["p", "q", "r"], configurations)


def test_a_configuration_is_what_its_choices_say():
    one = Configuration(
        (
            Choice(label="page1", kwargs={"page_size": 1}),
            Choice(label="tiny", kwargs={"model_path": "tiny"}, missing="no torch"),
            Choice(label="server", backend="reference:server"),
        )
    )
    assert one.label == "page1-tiny-server"
    assert one.kwargs == {"page_size": 1, "model_path": "tiny"}
    assert (one.backend, one.missing) == ("reference:server", "no torch")
