"""Our KV canary on a real SGLang: clean scripts stay clean, and what is broken is found."""

from __future__ import annotations

import pytest
from scripted_chunked import run_until_all_finished, run_until_finished
from scripted_core.errors import EngineDied
from scripted_core.sessions.http_server import ScriptedHttpServer
from scripted_registry.ci import register_cpu_ci
from scripted_sglang import launch

register_cpu_ci(est_time=120, stage="single-sglang", runner_config="cpu")
CANARY = {
    "kv_canary": "log",
    "kv_canary_real_data": "all",
    "kv_canary_sweep_interval": 4,
    "max_total_tokens": 1024,
    "chunked_prefill_size": 32,
}

pytestmark = [
    pytest.mark.skipif(
        launch.check_usable() is not None,
        reason=f"needs the capability 'an installed SGLang': {launch.check_usable()}",
    ),
    pytest.mark.parametrize("scripted_backend", ["sglang"], indirect=True),
    pytest.mark.scripted(**CANARY),
]


def decoding(t, count, *, prompt_len=40, tokens=3, first_seed=1):
    """Requests that decode, each with some tokens."""
    requests = [
        t.start_req(prompt_len=prompt_len, seed=first_seed + i, max_new_tokens=40, ignore_eos=True)
        for i in range(count)
    ]
    while any(len(request.output_ids) < tokens for request in requests):
        yield
    return requests


def last(canary, step):
    """What was found at a forward."""
    return [one for one in canary.violations.last(200) if one.step == step]


def test_chunks_shared_prefixes_a_retraction_and_an_eviction_are_clean(t):
    before, verified = t.canary.violations_total, t.canary.verified_slots_total
    first = [t.start_req(prompt_len=90, seed=i, max_new_tokens=12, ignore_eos=True) for i in (1, 2)]
    for _ in range(8):
        yield
    t.pause_generation(mode="retract")
    for _ in range(4):
        yield
    t.continue_generation()
    yield from run_until_all_finished(first)
    again = [t.start_req(prompt_len=90, seed=1, max_new_tokens=9, ignore_eos=True) for _ in (1, 2)]
    yield from run_until_all_finished(again)
    t.evict_radix()
    more = [t.start_req(prompt_len=50, seed=i, max_new_tokens=9, ignore_eos=True) for i in (2, 3)]
    yield from run_until_all_finished(more)
    for _ in range(8):
        yield
    assert t.canary.violations_total == before, list(t.canary.violations.last(3))
    assert t.canary.verified_slots_total - verified > 1000


def test_memory_pressure_is_clean(t):
    before = t.canary.violations_total
    many = [
        t.start_req(prompt_len=150, seed=i, max_new_tokens=40, ignore_eos=True) for i in range(8)
    ]
    yield from run_until_all_finished(many)
    assert t.canary.violations_total == before, list(t.canary.violations.last(3))


def test_a_used_slot_is_found_in_the_same_forward(t):
    (r,) = yield from decoding(t, 1)
    broken = t.perturb.flip_used_slot(handle=r, seed=5)
    yield
    assert [(one.reason.value, one.slot, one.rid) for one in last(t.canary, broken.done)] == [
        ("verify_real_kv_hash", broken.slot, r.rid)
    ]


def test_a_slot_that_broke_behind_its_forward_is_found_in_the_next_one(t):
    (r,) = yield from decoding(t, 1)
    broken = t.perturb.flip_after_forward(handle=r, seed=5)
    yield
    yield
    found = last(t.canary, broken.done + 1)
    assert ("verify_real_kv_hash", broken.slot) in [(one.reason.value, one.slot) for one in found]


def test_swapped_rows_are_found(t):
    pair = yield from decoding(t, 2)
    swapped = t.perturb.swap_rows(seed=1)
    yield
    found = last(t.canary, swapped.done)
    assert {one.rid for one in found} == {request.rid for request in pair}
    assert {one.reason.value for one in found} <= {"verify_token", "verify_chain_hash"}


def test_a_swapped_token_is_found(t):
    yield from decoding(t, 2, prompt_len=20)
    swapped = t.perturb.swap_next_token(seed=1)
    while not swapped.done:  # a small model may choose the same token twice
        yield
    found = [one for one in last(t.canary, swapped.done) if one.reason.value == "write_token"]
    assert len(found) == 2
    assert {one.expected for one in found} == {one.found for one in found}


def test_an_orphan_is_found_by_the_next_sweep(t):
    first = t.start_req(prompt_len=40, seed=11, max_new_tokens=4, ignore_eos=True)
    yield from run_until_finished(first)
    yield from decoding(t, 1, first_seed=12)
    broken = t.perturb.flip_cached_orphan(seed=3)
    for _ in range(6):
        yield
    found = [one for one in t.canary.violations.last(50) if one.slot == broken.slot]
    assert found[0].launch.value == "sweep"
    assert found[0].step - broken.done <= 4
    # It stays in the tree of this server otherwise, and each sweep would say so.
    broken.restore()


def test_a_canary_that_is_not_told_says_so(t):
    yield from decoding(t, 1)
    canary = t.canary
    before = canary.violations_total
    canary.detach()
    yield
    canary.check_health()
    canary.attach()
    new = canary.violations.last(canary.violations_total - before)
    assert [one.reason.value for one in new] == ["canary_stopped"]


TWO_RANKS = {**CANARY, "tp_size": 2, "kv_canary": "raise"}


@pytest.mark.scripted(**TWO_RANKS)
def test_both_ranks_are_clean_under_chunks_pressure_and_a_retraction(t):
    requests = [
        t.start_req(prompt_len=120, seed=i, max_new_tokens=20, ignore_eos=True) for i in range(6)
    ]
    for _ in range(8):
        yield
    t.pause_generation(mode="retract")
    yield
    t.continue_generation()
    yield from run_until_all_finished(requests)
    assert t.canary.violations_total == 0
    assert t.canary.verified_slots_total > 1000


def test_what_breaks_on_the_second_rank_alone_is_found_there(scripted_backend, monkeypatch):
    monkeypatch.setenv("SCRIPTED_KV_PERTURB", "used_slot:1:7:full@tp1")
    with ScriptedHttpServer.start(backend="sglang", **TWO_RANKS) as server:
        with pytest.raises(EngineDied) as caught:
            server.execute_script(_decodes)
    assert "scheduler tp1" in str(caught.value)
    assert "verify_real_kv_hash" in str(caught.value)
    assert "full@tp1" in str(caught.value)


def _decodes(t):
    yield from decoding(t, 1, tokens=8)
