"""Scripts on the reference engine under its canary: clean ones stay clean, broken slots are found."""

from __future__ import annotations

import pytest
from scripted_chunked import run_until_all_finished, run_until_finished
from scripted_core.errors import ConfigError, LeakDetected
from scripted_registry.ci import register_cpu_ci

register_cpu_ci(est_time=30, stage="unit", runner_config="cpu")
SIZES = {"max_total_tokens": 1024, "context_length": 512, "chunked_prefill_size": 32}
TINY = {"model_path": "tiny", **SIZES}
HASH = {"model_path": "hash", "kv_canary": "log", "kv_canary_real_data": "all", **SIZES}
TOPOLOGIES = [
    {},
    {"page_size": 8},
    {"disable_overlap_schedule": False},
    {"disable_radix_cache": True},
    {"pp_size": 2},
    {
        "model_path": "tiny",
        "kv_canary": "log",
        "kv_canary_real_data": "all",
        "speculative_algorithm": "STANDALONE",
        "speculative_draft_model_path": "tiny-draft",
    },
    {"json_model_override_args": {"sliding_window": 32}},
    {"json_model_override_args": {"sliding_window": 32}, "disable_hybrid_swa_memory": True},
    {"disaggregation_mode": "pair"},
    {"dp_size": 2},
]


@pytest.mark.scripted(**{**TINY, "kv_canary": "raise"})
def test_a_transformer_is_watched_in_mode_raise(t):
    requests = [
        t.start_req(prompt_len=70, seed=i, max_new_tokens=6, ignore_eos=True) for i in (1, 2)
    ]
    yield from run_until_all_finished(requests)
    again = t.start_req(prompt_len=70, seed=1, max_new_tokens=6, ignore_eos=True)
    yield from run_until_finished(again)
    assert again.output_ids == requests[0].output_ids
    assert t.canary.violations_total == 0
    assert t.canary.verified_slots_total > 500


@pytest.mark.xfail(strict=True, raises=LeakDetected, reason="the canary has to fail this script")
@pytest.mark.scripted(**TINY)
def test_a_transformer_is_watched_unless_the_arguments_say_otherwise(t):
    rs = [t.start_req(prompt_len=40, seed=i, max_new_tokens=12, ignore_eos=True) for i in (1, 2)]
    while len(rs[1].output_ids) < 3:
        yield
    t.perturb.swap_rows(seed=1)
    yield
    yield


@pytest.mark.scripted(**{**TINY, "kv_canary": "none"})
def test_a_transformer_is_not_watched_when_the_arguments_say_so(t):
    yield
    with pytest.raises(ConfigError, match="without a canary"):
        _ = t.canary


def clean(t):
    """Chunks, shared prefixes, a retraction and an eviction: nothing of it is a violation."""
    first = [t.start_req(prompt_len=70, seed=i, max_new_tokens=12, ignore_eos=True) for i in (1, 2)]
    for _ in range(8):
        yield
    t.pause_generation(mode="retract")
    yield
    for _ in range(3):
        yield
    t.continue_generation()
    yield from run_until_all_finished(first)
    shared = [t.start_req(prompt_len=70, seed=1, max_new_tokens=9, ignore_eos=True) for _ in (1, 2)]
    yield from run_until_all_finished(shared)
    if not t.scheduler.server_args.disable_radix_cache:
        t.evict_radix()
    more = [t.start_req(prompt_len=50, seed=i, max_new_tokens=9, ignore_eos=True) for i in (2, 3)]
    yield from run_until_all_finished(more)
    assert t.canary.violations_total == 0, list(t.canary.violations.last(3))
    assert t.canary.verified_slots_total > 1000


for _number, _kwargs in enumerate(TOPOLOGIES):

    def _make(kwargs):
        @pytest.mark.scripted(**{**HASH, **kwargs})
        def script(t):
            yield from clean(t)

        return script

    globals()[f"test_nothing_is_wrong_with_{_number}"] = _make(_kwargs)


@pytest.mark.scripted(**HASH)
def test_a_used_slot_is_found_in_the_same_forward(t):
    r = t.start_req(prompt_len=70, seed=1, max_new_tokens=12, ignore_eos=True)
    while len(r.output_ids) < 3:
        yield
    broken = t.perturb.flip_used_slot(handle=r, seed=5)
    yield
    found = t.canary.violations.last(1)[0]
    assert (found.reason.value, found.slot, found.rid) == (
        "verify_real_kv_hash",
        broken.slot,
        r.rid,
    )
    assert found.step == broken.done


@pytest.mark.scripted(**HASH)
def test_every_slot_of_a_request_is_verified_the_newest_too(t):
    r = t.start_req(prompt_len=20, seed=1, max_new_tokens=60, ignore_eos=True)
    while len(r.output_ids) < 3:
        yield
    canary = t.canary
    shadow, group = canary.shadow("full"), canary.groups["full"]
    row, missed = t.find_req_by_rid(r.rid).req_pool_idx, []
    for back in range(1, 21):
        position = 19 + len(r.output_ids) - back  # the newest token's KV is not written yet
        slot = int(group.table[row, position])
        shadow.arrays.flip(shadow.buffers[0], slot, 0, 1)
        before = canary.violations_total
        yield
        new = canary.violations.last(canary.violations_total - before)
        if [(one.slot, one.position) for one in new] != [(slot, position)]:
            missed.append(position)
        shadow.arrays.flip(shadow.buffers[0], slot, 0, 1)
    assert not missed


@pytest.mark.scripted(**HASH)
def test_a_slot_that_broke_behind_its_forward_is_found_by_the_next_one(t):
    r = t.start_req(prompt_len=20, seed=1, max_new_tokens=20, ignore_eos=True)
    while len(r.output_ids) < 3:
        yield
    broken = t.perturb.flip_after_forward(handle=r, seed=2)
    yield
    yield
    found = t.canary.violations.last(9)[0]
    assert (found.slot, found.step) == (broken.slot, broken.done + 1)


@pytest.mark.scripted(**HASH)
def test_swapped_rows_are_found(t):
    rs = [t.start_req(prompt_len=40, seed=i, max_new_tokens=12, ignore_eos=True) for i in (1, 2)]
    while len(rs[1].output_ids) < 3:
        yield
    t.perturb.swap_rows(seed=1)
    yield
    reasons = {one.reason.value for one in t.canary.violations.last(100)}
    assert reasons == {"verify_token"} or reasons == {"verify_token", "verify_chain_hash"}


@pytest.mark.scripted(**HASH)
def test_a_swapped_token_is_found(t):
    rs = [t.start_req(prompt_len=20, seed=i, max_new_tokens=12, ignore_eos=True) for i in (1, 2)]
    while len(rs[1].output_ids) < 3:
        yield
    swapped = t.perturb.swap_next_token(seed=1)
    yield
    assert swapped.done
    found = [one for one in t.canary.violations.last(100) if one.step == swapped.done]
    assert [one.reason.value for one in found] == ["write_token", "write_token"]
    assert {one.expected for one in found} == {one.found for one in found}


@pytest.mark.scripted(**{**HASH, "kv_canary_sweep_interval": 4})
def test_an_orphan_is_found_by_the_next_sweep(t):
    first = t.start_req(prompt_len=40, seed=1, max_new_tokens=4, ignore_eos=True)
    yield from run_until_finished(first)
    second = t.start_req(prompt_len=40, seed=2, max_new_tokens=20, ignore_eos=True)
    yield
    broken = t.perturb.flip_cached_orphan(seed=3)
    for _ in range(6):
        yield
    found = t.canary.violations.last(2)[0]
    assert (found.launch.value, found.slot) == ("sweep", broken.slot)
    assert found.step - broken.done <= 4
    yield from run_until_finished(second)


@pytest.mark.xfail(strict=True, raises=LeakDetected, reason="the canary has to fail this script")
@pytest.mark.scripted(**{**HASH, "kv_canary": "raise"})
def test_in_mode_raise_a_script_fails(t):
    r = t.start_req(prompt_len=70, seed=1, max_new_tokens=12, ignore_eos=True)
    while len(r.output_ids) < 3:
        yield
    t.perturb.flip_used_slot(seed=5)
    yield
    yield


@pytest.mark.scripted(
    **{**HASH, "disaggregation_mode": "pair", "disable_radix_cache": True, "kv_canary": "log"}
)
def test_what_broke_behind_a_prefill_is_found_by_the_decode_engine(t):
    r = t.start_req(prompt_len=30, seed=1, max_new_tokens=6, ignore_eos=True)
    broken = t.perturb.flip_after_forward(pool="full@prefill", seed=2)
    yield from run_until_finished(r)
    assert broken.done
    found = t.canary.violations.last(100)
    assert {(one.pool, one.reason.value) for one in found} == {("full", "verify_real_kv_hash")}
    assert found[0].step == 1  # its first forward


@pytest.mark.scripted(**HASH)
def test_a_canary_that_is_not_told_says_so_once(t):
    r = t.start_req(prompt_len=30, seed=1, max_new_tokens=6, ignore_eos=True)
    yield
    canary = t.canary
    canary.detach()
    yield
    canary.check_health()
    canary.check_health()
    assert [one.reason.value for one in canary.violations.last(9)] == ["canary_stopped"]
    yield from run_until_finished(r)


@pytest.mark.scripted(**HASH)
def test_what_is_no_request_is_not_perturbed(t):
    for flip in (t.perturb.flip_used_slot, t.perturb.flip_after_forward):
        with pytest.raises(ConfigError, match="'rid' is not a request handle"):
            flip(handle="rid")
    yield


# The two share an engine, in this order and in the other.
@pytest.mark.scripted(**HASH)
@pytest.mark.parametrize("number", [1, 2])
def test_a_script_begins_without_what_an_earlier_one_broke(t, number):
    yield
    assert t.canary.violations_total == 0
    assert t.canary.violations.last(9) == ()
    r = t.start_req(prompt_len=40, seed=number, max_new_tokens=12, ignore_eos=True)
    while len(r.output_ids) < 3:
        yield
    t.perturb.flip_used_slot(seed=number)
    yield from run_until_finished(r)
    assert t.canary.violations_total == sum(one.total for one in t.canary.found_in_script()) > 0
    assert t.canary.violations.last(1)


@pytest.mark.scripted(**HASH)
def test_what_cannot_be_meant_is_refused_at_once(t):
    yield
    for refused, says in (
        (lambda: t.canary.sweep("nope"), "no group of pools 'nope'"),
        (lambda: t.canary.violations.last("1"), "no number of violations"),
        (lambda: t.canary.violations.last(-1), "no number of violations"),
        (lambda: t.perturb.flip_used_slot(handle="x"), "x"),
        (lambda: t.perturb.flip_used_slot(seed=[1]), "no whole number"),
        (lambda: t.perturb.swap_rows(seed=None), "no whole number"),
        (lambda: t.perturb.flip_used_slot(pool="nope"), "no KV pool 'nope'"),
    ):
        with pytest.raises(ConfigError, match=says) as error:
            refused()
        assert error.value.hint


@pytest.mark.scripted(**HASH, max_running_requests=1, disable_radix_cache=True)
def test_a_request_that_comes_back_to_its_row_in_chunks_is_no_violation(t):
    r = t.start_req(prompt_len=90, seed=3, max_new_tokens=6, ignore_eos=True)
    while len(r.output_ids) < 2:
        yield
    t.pause_generation(mode="retract")
    yield
    t.continue_generation()
    yield from run_until_finished(r)
    assert t.canary.violations_total == 0, list(t.canary.violations.last(3))
