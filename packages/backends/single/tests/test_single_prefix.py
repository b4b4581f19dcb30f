"""The prefix tree: sharing, hits, locks, eviction and flush."""

from __future__ import annotations

import random

import pytest
from scripted_backend_single import (
    CHUNK_TOKENS,
    flush,
    require_at_rest,
    run_steps,
    settle,
    single_device_kwargs,
)
from scripted_chunked import (
    advance_to_decode_step,
    run_until_all_finished,
    run_until_finished,
    warmup_radix,
)
from scripted_registry.ci import register_cpu_ci

register_cpu_ci(est_time=2, stage="single", runner_config="cpu")
register_cpu_ci(est_time=25, stage="single-sglang", runner_config="cpu")

pytestmark = [
    pytest.mark.scripted(**single_device_kwargs()),
    pytest.mark.scripted_requires("prefix_cache"),
]


def _tokens(t, n, *, seed):
    rng = random.Random(seed)
    return [rng.randrange(1, t.engine.vocab_size) for _ in range(n)]


def _answer(t, tokens, *, max_new_tokens=8):
    r = t.start_req(input_ids=tokens, max_new_tokens=max_new_tokens, ignore_eos=True)
    yield from run_until_finished(r)
    yield from settle(t)
    return r


def test_a_shared_prefix_is_computed_once(t):
    prefix = _tokens(t, 2 * CHUNK_TOKENS, seed=1)
    prompts = [prefix + _tokens(t, 16, seed=seed) for seed in (2, 3)]
    alone = []
    for prompt in prompts:
        r = yield from _answer(t, prompt)
        assert r.chunks_done == 3
        alone.append(r.output_ids)
        yield from flush(t)
    first = yield from _answer(t, prompts[0])
    assert first.chunks_done == 3
    free = t.engine_stats()["kv_pool_free"]
    second = yield from _answer(t, prompts[1])
    assert second.chunks_done == 0, "the shared prefix was computed again"
    assert free - t.engine_stats()["kv_pool_free"] < 2 * CHUNK_TOKENS
    assert [first.output_ids, second.output_ids] == alone


def test_a_running_requests_prefix_is_shared(t):
    prefix = _tokens(t, 2 * CHUNK_TOKENS, seed=4)
    prompts = [prefix + _tokens(t, 16, seed=seed) for seed in (5, 6)]
    alone = []
    for prompt in prompts:
        r = yield from _answer(t, prompt, max_new_tokens=20)
        alone.append(r.output_ids)
        yield from flush(t)
    first = t.start_req(input_ids=prompts[0], max_new_tokens=20, ignore_eos=True)
    yield from advance_to_decode_step(first, 4)
    second = t.start_req(input_ids=prompts[1], max_new_tokens=20, ignore_eos=True)
    yield from advance_to_decode_step(second, 2)
    assert not first.finished
    assert second.chunks_done == 0
    assert max(t.get_all_node_lock_refs().values()) >= 2
    yield from run_until_all_finished([first, second])
    assert [first.output_ids, second.output_ids] == alone


def test_hit_counts_go_up(t):
    tokens = _tokens(t, 50, seed=7)
    assert t.get_all_node_hit_counts() == {}
    yield from warmup_radix(t, tokens)
    yield from settle(t)
    once = t.get_all_node_hit_counts()
    assert once
    yield from warmup_radix(t, tokens)
    yield from settle(t)
    twice = t.get_all_node_hit_counts()
    assert max(twice.values()) > max(once.values())


def test_locks_are_held_while_a_request_runs(t):
    yield from warmup_radix(t, _tokens(t, 50, seed=8))
    yield from settle(t)
    assert set(t.get_all_node_lock_refs().values()) == {0}
    r = t.start_req(input_ids=[*_tokens(t, 50, seed=8), 3, 4], max_new_tokens=8, ignore_eos=True)
    yield from advance_to_decode_step(r, 2)
    assert max(t.get_all_node_lock_refs().values()) >= 1
    assert r.lock_refs >= 1
    yield from run_until_finished(r)
    yield from settle(t)
    assert set(t.get_all_node_lock_refs().values()) == {0}
    assert r.lock_refs == 0


@pytest.mark.parametrize("mode", ["abort", "retract"])
def test_locks_are_released_however_a_request_stops(t, mode):
    yield from warmup_radix(t, _tokens(t, 50, seed=8))
    yield from settle(t)
    r = t.start_req(input_ids=[*_tokens(t, 50, seed=8), 3], max_new_tokens=20, ignore_eos=True)
    yield from advance_to_decode_step(r, 2)
    if mode == "abort":
        t.abort(r)
        yield from run_until_finished(r, max_steps=8)
        yield from settle(t)
    else:
        t.pause_generation(mode="retract")
        yield
        assert r.status == "waiting"
    assert set(t.get_all_node_lock_refs().values()) == {0}


def test_a_running_requests_prefix_is_not_evicted(t):
    r = t.start_req(prompt_len=50, seed=9, max_new_tokens=20, ignore_eos=True)
    yield from advance_to_decode_step(r, 2)
    locked = len(t.get_all_node_lock_refs())
    assert locked >= 1
    t.evict_radix()
    yield
    assert len(t.get_all_node_lock_refs()) == locked
    yield from run_until_finished(r)
    assert len(r.output_ids) == 20


def test_evict_radix_of_a_prefix_drops_that_subtree_only(t):
    doomed, kept = _tokens(t, 100, seed=10), _tokens(t, 100, seed=11)
    for tokens in (doomed, kept):
        yield from warmup_radix(t, tokens)
    yield from settle(t)
    before = t.engine_stats()["kv_pool_evictable"]
    assert before >= 200
    receipt = t.evict_radix(prefix_tokens=doomed[:10])
    yield
    assert receipt.ok
    dropped = before - t.engine_stats()["kv_pool_evictable"]
    assert 100 <= dropped < 110
    hit = yield from _answer(t, [*kept, 5])
    missed = yield from _answer(t, [*doomed, 5])
    assert hit.chunks_done == 0
    assert missed.chunks_done == 2
    require_at_rest(t)


def test_evict_radix_below_a_common_prefix(t):
    common = _tokens(t, 80, seed=12)
    left, right = (common + _tokens(t, 20, seed=seed) for seed in (13, 14))
    for tokens in (left, right):
        yield from warmup_radix(t, tokens)
    yield from settle(t)
    t.evict_radix(prefix_tokens=left)
    yield
    other = yield from _answer(t, [*right, 5])
    assert other.chunks_done == 0, "the sibling's prefix went with it"
    t.evict_radix(prefix_tokens=common[:5])
    yield
    assert t.engine_stats()["kv_pool_free"] == t.engine_stats()["kv_pool_total"]


def test_evict_radix_without_a_prefix_drops_everything(t):
    for seed in (15, 16):
        yield from warmup_radix(t, _tokens(t, 30, seed=seed))
    yield from settle(t)
    t.evict_radix()
    yield
    assert t.get_all_node_lock_refs() == {}
    assert t.engine_stats()["kv_pool_free"] == t.engine_stats()["kv_pool_total"]


def test_flush_while_busy_is_refused(t):
    r = t.start_req(prompt_len=50, seed=17, max_new_tokens=20, ignore_eos=True)
    yield from advance_to_decode_step(r, 2)
    receipt = t.flush_cache()
    assert receipt.ok is None
    yield
    assert receipt.ok is False
    assert receipt.message
    assert t.get_all_node_lock_refs(), "a refused flush emptied the tree"
    yield from run_until_finished(r)
    assert r.status == "finished"
    assert len(r.output_ids) == 20


def test_flush_while_a_request_only_waits_is_refused(t):
    yield from warmup_radix(t, _tokens(t, 50, seed=20))
    yield from settle(t)
    t.exhaust("rows", leave_rows=0)
    yield
    r = t.start_req(prompt_len=20, max_new_tokens=2)
    yield
    assert r.status == "waiting"
    receipt = t.flush_cache()
    yield
    assert receipt.ok is False
    assert t.get_all_node_hit_counts()
    t.release_exhausted()
    yield from run_until_finished(r)


def test_flush_while_idle_empties_the_tree(t):
    yield from warmup_radix(t, _tokens(t, 50, seed=18))
    yield from settle(t)
    assert t.get_all_node_hit_counts()
    receipt = t.flush_cache()
    assert receipt.ok is None
    yield
    assert receipt.ok is True
    assert t.get_all_node_hit_counts() == {}
    assert t.engine_stats()["kv_pool_free"] == t.engine_stats()["kv_pool_total"]
    require_at_rest(t)


def test_the_tree_survives_idling(t):
    yield from warmup_radix(t, _tokens(t, 50, seed=19))
    yield from settle(t)
    before = t.engine_stats()
    yield from run_steps(100)
    assert t.engine_stats() == before
