"""The seeds' perturbation of a pair in one process: found by the decode engine, in its first forward."""

from __future__ import annotations

import pytest
from scripted_backend_pd import pair_kwargs
from scripted_canary.in_script import assert_no_violation, assert_per_forward_violation_reported
from scripted_canary.pair_scripts import (
    deduplicated_before_the_transfer,
    nothing_is_wrong_with_identical_prompts,
    p_side_perturb_surfaces_on_the_decode_side,
    prompts_of,
    the_kept_copy_goes_to_all,
)
from scripted_chunked import run_until_all_finished
from scripted_core import InProcessSession
from scripted_core.errors import ConfigError
from scripted_registry.ci import register_cpu_ci

register_cpu_ci(est_time=8, stage="pd", runner_config="cpu")

# A prompt is one chunk, so that the prefill engine reads nothing of it back; a sweep would.
_KWARGS = pair_kwargs(
    kv_canary="log",
    kv_canary_real_data="all",
    kv_canary_sweep_interval=0,
    chunked_prefill_size=512,
)
_REASON = "verify_real_kv_hash"
_RUNS = 200


@pytest.fixture(scope="module")
def session():
    """One pair in this process for the module."""
    with InProcessSession.start(backend="reference", **_KWARGS) as started:
        yield started


def test_distinct_prompts_surface_in_200_of_200_runs(session):
    missed = []
    for seed in range(_RUNS):
        try:
            session.execute_script(
                p_side_perturb_surfaces_on_the_decode_side, kwargs={"seed": 10 * seed}
            )
        except AssertionError as error:
            missed.append((seed, str(error).partition("\n")[0]))
    assert not missed, f"{_RUNS - len(missed)} of {_RUNS} runs surfaced: {missed[:3]}"


@pytest.mark.parametrize("seed", range(5))
def test_identical_prompts_without_a_perturbation_have_nothing_wrong(session, seed):
    session.execute_script(nothing_is_wrong_with_identical_prompts, kwargs={"seed": seed})


@pytest.mark.parametrize("seed", range(5))
def test_the_slot_of_a_duplicate_is_freed_before_the_transfer(session, seed):
    session.execute_script(deduplicated_before_the_transfer, kwargs={"seed": seed})


@pytest.mark.parametrize("seed", range(5))
def test_the_copy_that_is_kept_goes_to_every_request(session, seed):
    session.execute_script(the_kept_copy_goes_to_all, kwargs={"seed": seed})


def test_without_a_prefix_tree_identical_prompts_surface_every_time():
    surfaced = []

    def script(t, seed):
        surfaced.append(
            (
                yield from p_side_perturb_surfaces_on_the_decode_side(
                    t, seed=seed, distinct_prompts=False
                )
            )
        )

    with InProcessSession.start(
        backend="reference", **_KWARGS, disable_radix_cache=True
    ) as session:
        for seed in range(8):
            session.execute_script(script, kwargs={"seed": seed})
    assert [len(one.rids) for one in surfaced] == [1] * 8, "each has sent its own slots"


def _rows_before_and_after(t):
    """The row of the second request names its own slot until the tree knows the prompt."""
    prefill = t.engine.pair.prefill
    seen = {}

    def look(batch):
        seen.update({req.rid: list(prefill.slots_of(req)[:40]) for req in batch.reqs})

    first, second = prompts_of(t, count=2, seed=3, distinct_prompts=False)
    prefill.after_forward.append(look)
    broken = t.perturb.flip_after_forward(handle=second, pool="full@prefill", seed=3)
    t.transfer.hold()
    while not broken.done:
        yield
    prefill.after_forward.remove(look)
    position = seen[second.rid].index(broken.slot)
    assert broken.slot not in seen[first.rid]
    rows = [prefill.slots_of(prefill.find_req(one.rid))[position] for one in (first, second)]
    assert rows == [seen[first.rid][position]] * 2, "the second's row names the first's slot now"
    t.transfer.resume()
    yield from run_until_all_finished([first, second])
    yield from assert_no_violation(t)


def test_a_row_names_the_kept_slot_before_its_kv_is_sent(session):
    session.execute_script(_rows_before_and_after)


# --- the assertions themselves


def _finds_nothing(t, **expected):
    prompts_of(t, count=1, seed=1, distinct_prompts=True)
    yield from assert_per_forward_violation_reported(t, **expected)


def _finds_something(t, **where):
    prompts_of(t, count=1, seed=1, distinct_prompts=True)
    t.perturb.flip_after_forward(pool="full@prefill", seed=1)
    yield from assert_no_violation(t, **where)


def _finds_another(t, **expected):
    prompts_of(t, count=1, seed=1, distinct_prompts=True)
    t.perturb.flip_after_forward(pool="full@prefill", seed=1)
    yield from assert_per_forward_violation_reported(t, **expected)


@pytest.mark.parametrize(
    ("script", "kwargs", "said"),
    [
        (_finds_nothing, {"fail_reason": _REASON}, "no forward has reported .*; nothing was found"),
        (_finds_something, {}, "violations where none should be; found: .* in full by a forward"),
        (_finds_something, {"side": "decode"}, "verify_real_kv_hash: slot .*, forward"),
        (_finds_another, {"fail_reason": _REASON, "side": "prefill"}, "nothing was found"),
        (_finds_another, {"fail_reason": "verify_token"}, "found: .* verify_real_kv_hash in full"),
    ],
)
def test_an_expectation_that_does_not_hold_fails(session, script, kwargs, said):
    with pytest.raises(AssertionError, match=f"(?s){said}"):
        session.execute_script(script, kwargs=kwargs)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"fail_reason": "hash"}, "fail_reason='hash' is nothing that a canary finds"),
        ({"fail_reason": _REASON, "target_group": "swa"}, "target_group='swa' is no kind of pool"),
        ({"fail_reason": _REASON, "side": "left"}, "side='left' has no pool in this process"),
    ],
)
def test_a_wrong_expectation_is_named(session, wrong, said):
    with pytest.raises(ConfigError, match=said):
        session.execute_script(_finds_nothing, kwargs=wrong)


def test_what_an_earlier_script_found_does_not_count(session):
    session.execute_script(p_side_perturb_surfaces_on_the_decode_side, kwargs={"seed": 900})
    session.execute_script(nothing_is_wrong_with_identical_prompts, kwargs={"seed": 901})
