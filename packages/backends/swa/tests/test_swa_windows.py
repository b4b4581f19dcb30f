"""Window slots come back as they leave the window; what is in it is never touched."""

from __future__ import annotations

import pytest
from scripted_backend_swa import (
    CHUNK_TOKENS,
    WINDOW_POOL,
    WINDOW_TOKENS,
    require_no_locks,
    sliding_window_kwargs,
    window_pages_left,
)
from scripted_chunked import (
    advance_to_decode_step,
    advance_to_nth_chunk,
    flush,
    require_at_rest,
    run_until_all_finished,
    run_until_finished,
    settle,
    undisturbed_output,
    warmup_radix,
)
from scripted_registry.ci import register_cpu_ci

register_cpu_ci(est_time=6, stage="swa", runner_config="cpu")
register_cpu_ci(est_time=30, stage="swa-sglang", runner_config="cpu")

pytestmark = [
    pytest.mark.scripted(**sliding_window_kwargs()),
    pytest.mark.scripted_requires("swa"),
]

_SLACK_PAGES = 4  # the token that is computed, and what an engine that overlaps has in flight
_SHORT = 4  # tokens of a prompt that an engine may keep in the prefix tree while the request runs


def _used(t, name):
    pool = t.engine.kv_pools[name]
    return pool.total - pool.available - pool.evictable


def test_a_long_output_takes_a_window_of_the_window_pool(t):
    r = t.start_req(prompt_len=_SHORT, seed=1, max_new_tokens=300, ignore_eos=True)
    yield from advance_to_decode_step(r, 2 * WINDOW_TOKENS)
    most = 0
    while not r.finished:
        most = max(most, _used(t, WINDOW_POOL))
        yield
    assert WINDOW_TOKENS - 1 <= most <= WINDOW_TOKENS + _SHORT + _SLACK_PAGES
    yield from settle(t)
    require_at_rest(t)


def test_the_full_pool_keeps_everything_meanwhile(t):
    r = t.start_req(prompt_len=_SHORT, seed=1, max_new_tokens=200, ignore_eos=True)
    yield from advance_to_decode_step(r, 150)
    assert _used(t, "full") >= _SHORT + 148
    assert _used(t, WINDOW_POOL) <= WINDOW_TOKENS + _SHORT + _SLACK_PAGES
    yield from run_until_finished(r)


def test_a_long_prompt_locks_no_more_than_the_window_and_a_chunk(t):
    r = t.start_req(prompt_len=10 * CHUNK_TOKENS, seed=2, max_new_tokens=4, ignore_eos=True)
    yield from advance_to_nth_chunk(r, 2)
    most = 0
    while not r.finished:
        most = max(most, _used(t, WINDOW_POOL))
        yield
    assert most <= 2 * CHUNK_TOKENS + WINDOW_TOKENS + _SLACK_PAGES
    yield from settle(t)
    require_at_rest(t)
    require_no_locks(t)


def test_a_cached_prefix_is_gone_on_from(t):
    vocab = t.engine.vocab_size
    prompt = [4 + (7 * i) % (vocab - 4) for i in range(300)]
    expected = yield from _answer(t, prompt)
    yield from flush(t)
    yield from warmup_radix(t, prompt[:280])
    r = t.start_req(input_ids=prompt, max_new_tokens=12, ignore_eos=True)
    yield from run_until_finished(r)
    assert r.output_ids == expected
    assert r.chunks_done == 0, "the prefix was cached, and what is left is less than a chunk"


def test_a_prefix_that_lost_its_window_is_computed_anew(t):
    vocab = t.engine.vocab_size
    prompt = [4 + (11 * i) % (vocab - 4) for i in range(300)]
    expected = yield from _answer(t, prompt)
    yield from flush(t)
    yield from warmup_radix(t, prompt[:280])
    yield from settle(t)
    full_before = t.engine.kv_pools["full"].evictable
    assert full_before >= 279
    t.exhaust_kv(leave_pages=0, pool=WINDOW_POOL)
    yield
    assert t.engine.kv_pools[WINDOW_POOL].evictable == 0
    t.release_exhausted()
    yield
    r = t.start_req(input_ids=prompt, max_new_tokens=12, ignore_eos=True)
    yield from run_until_finished(r)
    assert r.output_ids == expected
    assert r.chunks_done > 1, "there was no window to go on from"
    yield from settle(t)
    require_at_rest(t)


@pytest.mark.parametrize("pool", ["full", WINDOW_POOL])
def test_each_pool_is_exhausted_by_itself(t, pool):
    other = {"full": WINDOW_POOL, WINDOW_POOL: "full"}[pool]
    before = t.engine.kv_pools[other].available
    t.exhaust_kv(leave_pages=5, pool=pool)
    yield
    assert t.engine.kv_pools[pool].available == 5
    assert t.engine.kv_pools[other].available == before
    t.release_exhausted()
    yield
    require_at_rest(t)


def test_decoding_on_few_window_slots_changes_no_output(t):
    prompts = [(30, seed) for seed in range(5)]
    expected = []
    for prompt_len, seed in prompts:
        expected.append(
            (yield from undisturbed_output(t, prompt_len=prompt_len, seed=seed, max_new_tokens=60))
        )
    # As many as two windows and the chunk that one of them may have to compute anew.
    t.exhaust_kv(leave_pages=2 * WINDOW_TOKENS + CHUNK_TOKENS, pool=WINDOW_POOL)
    yield
    handles = [
        t.start_req(prompt_len=prompt_len, seed=seed, max_new_tokens=60, ignore_eos=True)
        for prompt_len, seed in prompts
    ]
    least = window_pages_left(t)
    for _ in range(1500):
        yield
        least = min(least, window_pages_left(t))
        if all(handle.finished for handle in handles):
            break
    assert [handle.output_ids for handle in handles] == expected
    assert least < WINDOW_TOKENS, "the window pool was never short"
    t.release_exhausted()
    yield from settle(t)
    require_at_rest(t)


def test_equal_prompts_at_once_share_what_they_can(t):
    expected = yield from undisturbed_output(t, prompt_len=200, seed=9, max_new_tokens=16)
    handles = [
        t.start_req(prompt_len=200, seed=9, max_new_tokens=16, ignore_eos=True) for _ in range(3)
    ]
    yield from run_until_all_finished(handles)
    assert [handle.output_ids for handle in handles] == [expected] * 3
    yield from settle(t)
    require_at_rest(t)
    require_no_locks(t)


def _answer(t, prompt):
    r = t.start_req(input_ids=prompt, max_new_tokens=12, ignore_eos=True)
    yield from run_until_finished(r)
    assert len(r.output_ids) == 12
    return r.output_ids
