"""Memory on either side: pressure, retraction, prefix hits, prompts that fit only one engine."""

from __future__ import annotations

import pytest
from scripted_backend_pd import Prompt, advance_to_pd_stage, outputs_of_one_engine, pair_kwargs
from scripted_backend_pd import server_scripts as scripts
from scripted_chunked import advance_to_decode_step, run_until_all_finished, run_until_finished
from scripted_core.views import PdStage
from scripted_registry.ci import register_cpu_ci

register_cpu_ci(est_time=2, stage="pd", runner_config="cpu")

_KWARGS = pair_kwargs(page_size=4)
_SMALL_DECODE = pair_kwargs(
    page_size=4, num_reserved_decode_tokens=4, decode_kwargs={"max_total_tokens": 400}
)
_SMALL_PREFILL = pair_kwargs(page_size=4, prefill_kwargs={"max_total_tokens": 256})
pytestmark = [
    pytest.mark.scripted_requires("pd_prefill", "pd_decode"),
    pytest.mark.scripted(**_KWARGS),
]


def _expected(prompts):
    return outputs_of_one_engine(prompts, _KWARGS)


@pytest.fixture(scope="module")
def expected():
    """What one engine answers that does both, with memory for all."""
    return _expected(scripts.CROWD)


@pytest.mark.scripted(**_SMALL_DECODE)
def test_a_full_decode_engine_retracts_and_resumes(t, expected):
    handles = yield from scripts.decode_pages_run_out(t, expected)
    prefills = [rid for record in t.batch_log for rid in record.extend_rids]
    assert all(prefills.count(handle.rid) <= 3 for handle in handles), "nothing is computed again"


@pytest.mark.scripted(
    **pair_kwargs(
        page_size=4,
        num_reserved_decode_tokens=4,
        decode_kwargs={"max_total_tokens": 400, "disable_overlap_schedule": False},
    )
)
def test_a_full_decode_engine_with_overlap_retracts_and_resumes(t, expected):
    yield from scripts.decode_pages_run_out(t, expected)


def test_exhausted_decode_pages_hold_the_prefill_engine_back(t, expected):
    yield from scripts.exhausted_decode_pages_hold_the_prefill_engine_back(t, expected)


def test_pages_taken_from_under_a_running_decode_retract_it(t, expected):
    handles = [prompt.start(t) for prompt in scripts.CROWD[:3]]
    yield from advance_to_decode_step(handles[2], 4)
    t.decode.exhaust_kv(leave_pages=1)
    seen = set()
    for _ in range(30):
        yield
        seen |= {t.transfer.stage(handle) for handle in handles}
    assert PdStage.RETRACTED in seen
    t.release_exhausted()
    yield from run_until_all_finished(handles)
    assert [handle.output_ids for handle in handles] == expected[:3]


def test_exhausted_prefill_pages_park_a_prompt(t):
    first = Prompt(256, seed=11)
    r = first.start(t)
    yield from advance_to_pd_stage(t, r, PdStage.PREFILLING)
    t.prefill.exhaust_kv(leave_pages=2)
    for _ in range(10):
        yield
    assert r.chunked_parks >= 8
    assert t.prefill.status(r) == "running"
    t.release_exhausted()
    yield from run_until_finished(r)
    assert [r.output_ids] == _expected([first])


def test_a_prefix_hit_saves_the_prefill_and_not_the_transfer(t):
    prompts = [Prompt(40, seed=i, shared=128) for i in (21, 22)]
    cold = prompts[0].start(t)
    yield from run_until_finished(cold)
    delivered, batches = t.transfer.delivered, len(t.batch_log)
    warm = prompts[1].start(t)
    yield from run_until_finished(warm)
    assert [cold.output_ids, warm.output_ids] == _expected(prompts)
    extends = [record for record in t.batch_log[batches:] if warm.rid in record.extend_rids]
    assert len(extends) == 1, "128 of its 168 tokens are cached"
    assert t.transfer.delivered == delivered + 1
    assert t.prefill.engine_stats()["kv_pool_evictable"] > 0
    assert t.decode.engine_stats()["kv_pool_evictable"] == 0


def test_evicting_the_prefix_while_it_is_transferred_is_refused_by_its_lock(t):
    r = Prompt(200, seed=31).start(t)
    yield from advance_to_pd_stage(t, r, PdStage.TRANSFERRING)
    while not any(chunk.is_last for chunk in t.transfer.pending_of(r)):
        yield
    t.evict_radix()
    yield
    assert t.prefill.view(r).kv_pages == 50
    assert any(t.get_all_node_lock_refs().values())
    t.transfer.resume()
    yield from run_until_finished(r)
    assert [r.output_ids] == _expected([Prompt(200, seed=31)])
    t.evict_radix()
    yield
    assert not t.get_all_node_lock_refs()


@pytest.mark.scripted(**_SMALL_PREFILL)
def test_a_prompt_too_long_for_the_prefill_engine_is_refused(t):
    long, short = Prompt(300, seed=41), Prompt(200, seed=42)
    refused, fine = long.start(t), short.start(t)
    assert refused.finished
    assert "Prefill engine" in refused.finish_reason.message
    yield from run_until_finished(fine)
    assert [fine.output_ids] == _expected([short])


@pytest.mark.scripted(**pair_kwargs(decode_kwargs={"max_total_tokens": 128}))
def test_a_prompt_too_long_for_the_decode_engine_is_refused(t):
    refused = Prompt(200, seed=43).start(t)
    assert refused.finished
    assert "128" in refused.finish_reason.message
    yield


def test_lock_refs_and_rows_run_short(t, expected):
    t.exhaust("rows", leave_rows=3)
    yield
    handles = [prompt.start(t) for prompt in scripts.CROWD]
    yield from run_until_all_finished(handles)
    assert [handle.output_ids for handle in handles] == expected
