"""Chunks, prefixes and memory when a KV page holds several tokens."""

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
    undisturbed_output,
)
from scripted_chunked import advance_to_decode_step, advance_to_nth_chunk, run_until_finished
from scripted_registry.ci import register_cpu_ci

register_cpu_ci(est_time=2, stage="single", runner_config="cpu")
register_cpu_ci(est_time=25, stage="single-sglang", runner_config="cpu")

pytestmark = pytest.mark.scripted(**paged_device_kwargs())


def _pages(tokens: int) -> int:
    return -(-tokens // PAGE_TOKENS)


@pytest.mark.parametrize("offset", [-PAGE_TOKENS, -1, 0, 1, PAGE_TOKENS])
@pytest.mark.parametrize("full_chunks", [1, 3])
def test_chunk_boundaries(t, full_chunks, offset):
    prompt_len = full_chunks * CHUNK_TOKENS + offset
    r = t.start_req(prompt_len=prompt_len, seed=5, max_new_tokens=3, ignore_eos=True)
    yield from run_until_finished(r)
    batches = -(-prompt_len // CHUNK_TOKENS)
    assert r.chunks_done == (batches if batches > 1 else 0)
    assert len(r.output_ids) == 3
    yield from settle(t)
    require_at_rest(t)


def test_figures_are_in_pages(t):
    stats = t.engine_stats()
    assert stats["page_size"] == PAGE_TOKENS
    assert stats["kv_pool_total"] == 4096 // PAGE_TOKENS
    assert stats["kv_pool_free"] == stats["kv_pool_total"]
    r = t.start_req(prompt_len=40, max_new_tokens=6, ignore_eos=True)
    yield from advance_to_decode_step(r, 2)
    assert r.kv_pages == _pages(42)
    taken = t.engine_stats()["kv_pool_total"] - t.engine_stats()["kv_pool_free"]
    assert taken == _pages(42)
    yield from run_until_finished(r)


@pytest.mark.parametrize("stage", [1, 2])
def test_retraction_between_chunks_keeps_the_output(t, stage):
    prompt_len = 2 * CHUNK_TOKENS + 23
    alone = yield from undisturbed_output(t, prompt_len=prompt_len, seed=9, max_new_tokens=8)
    r = t.start_req(prompt_len=prompt_len, seed=9, max_new_tokens=8, ignore_eos=True)
    yield from advance_to_nth_chunk(r, stage)
    t.pause_generation(mode="retract")
    yield
    assert r.status == "waiting"
    t.continue_generation()
    yield from run_until_finished(r)
    assert r.output_ids == alone


def test_a_prefix_is_shared_by_whole_pages(t):
    tokens = [1 + i % 400 for i in range(CHUNK_TOKENS + 8)]
    first = t.start_req(input_ids=tokens, max_new_tokens=2, ignore_eos=True)
    yield from run_until_finished(first)
    assert first.chunks_done == 2
    yield from settle(t)
    again = t.start_req(input_ids=tokens, max_new_tokens=2, ignore_eos=True)
    yield from run_until_finished(again)
    assert again.chunks_done == 0
    assert again.output_ids == first.output_ids
    yield from flush(t)
    require_at_rest(t)


def test_exhausted_pages_keep_a_request_waiting(t):
    t.exhaust_kv(leave_pages=2)
    yield
    assert t.engine_stats()["kv_pool_free"] == 2
    r = t.start_req(prompt_len=3 * PAGE_TOKENS, max_new_tokens=4, ignore_eos=True)
    yield from run_steps(8)
    assert r.status == "waiting"
    t.release_exhausted()
    yield from run_until_finished(r)
    assert r.status == "finished"
