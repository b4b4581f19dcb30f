"""Node views, hit counts, lock refs and eviction are the same whichever core the tree has."""

from __future__ import annotations

import pytest
from scripted_backend_single import (
    CHUNK_TOKENS,
    flush,
    require_at_rest,
    run_steps,
    settle,
    single_device_kwargs,
)
from scripted_chunked import advance_to_decode_step, run_until_finished, warmup_radix
from scripted_registry.ci import register_cpu_ci
from scripted_sglang import launch
from scripted_sglang.trees import TreeCore, installed_cores

register_cpu_ci(est_time=40, stage="single-sglang", runner_config="cpu")

_VARIABLE = "SGLANG_UNIFIED_RADIX_TREE_CORE_BACKEND"


def _core(core):
    # The default of a session is no argument, so that it shares the server of all other scripts.
    kwargs = single_device_kwargs(**({"env": {_VARIABLE: "rust"}} if core == "rust" else {}))
    marks = [pytest.mark.scripted(**kwargs)]
    if core not in installed_cores():
        marks.append(pytest.mark.skip(reason=f"this SGLang has no prefix tree {core.value!r}"))
    return pytest.param(core.value, marks=marks)


pytestmark = [
    pytest.mark.skipif(
        launch.check_usable() is not None,
        reason=f"needs the capability 'an installed SGLang': {launch.check_usable()}",
    ),
    pytest.mark.parametrize("scripted_backend", ["sglang"], indirect=True),
    pytest.mark.parametrize("core", [_core(core) for core in TreeCore]),
]

_A = list(range(10, 60))
_B = [*_A[:30], *range(200, 220)]


def _kind(t):
    tree = t.scheduler.tree_cache
    core = getattr(tree, "tree_core", None)
    if core is None:
        return "legacy"
    return "rust" if type(core).__name__.startswith("Rust") else "python"


def _warm(t, *prompts):
    for prompt in prompts:
        yield from warmup_radix(t, prompt)
        yield from settle(t)


def _counts(t):
    hits, locks = t.get_all_node_hit_counts(), t.get_all_node_lock_refs()
    assert hits.keys() == locks.keys()
    return {node: (hits[node], locks[node]) for node in hits}


def test_it_is_the_tree_that_was_asked_for(t, core):
    assert _kind(t) == core
    yield


def test_a_split_node_hands_its_hits_to_both_halves_and_a_hit_counts_on_its_path(t, core):
    assert _counts(t) == {}
    yield from _warm(t, _A, _A)
    before = max(t.get_all_node_hit_counts().values())
    assert before >= 2
    yield from _warm(t, _B)
    hits = sorted(t.get_all_node_hit_counts().values())
    # The part that both share was hit once more; what A has alone keeps its count.
    assert hits[-1] == before + 1
    assert before in hits
    assert hits[0] == 1


def test_nodes_keep_their_identity_while_they_live(t, core):
    yield from _warm(t, _A)
    first = set(t.get_all_node_hit_counts())
    yield from run_steps(3)
    assert set(t.get_all_node_hit_counts()) == first
    yield from flush(t)
    assert t.get_all_node_hit_counts() == {}
    yield from _warm(t, _A)
    assert not first & set(t.get_all_node_hit_counts())


def test_a_running_request_locks_its_path_and_no_other(t, core):
    yield from _warm(t, _A, _B)
    assert {locks for _, locks in _counts(t).values()} == {0}
    r = t.start_req(input_ids=[*_A, 5, 6], max_new_tokens=8, ignore_eos=True)
    yield from advance_to_decode_step(r, 2)
    locks = sorted(t.get_all_node_lock_refs().values())
    assert locks[0] == 0, "what only the other prompt has is locked"
    assert locks[-1] == 1
    assert r.lock_refs == 1
    again = t.start_req(input_ids=[*_A, 7, 8], max_new_tokens=8, ignore_eos=True)
    yield from advance_to_decode_step(again, 2)
    assert max(t.get_all_node_lock_refs().values()) == 2
    yield from run_until_finished(again)
    yield from settle(t)
    assert {locks for _, locks in _counts(t).values()} == {0}


def test_lock_refs_are_exhausted_and_given_back(t, core):
    yield from _warm(t, _A, _B, list(range(300, 340)))
    nodes = len(_counts(t))
    t.exhaust_lock_refs(leave_refs=1)
    yield
    assert sum(locks == 0 for _, locks in _counts(t).values()) == 1
    t.evict_radix()
    yield
    assert len(_counts(t)) == nodes - 1
    yield from run_steps(20)  # SGLang's own checks of the tree run when it is idle
    t.release_exhausted()
    yield
    assert {locks for _, locks in _counts(t).values()} == {0}
    require_at_rest(t)


@pytest.mark.parametrize("length", [10, 30, 40])
def test_one_subtree_is_evicted(t, core, length):
    other = list(range(300, 340))
    yield from _warm(t, _A, _B, other)
    before = t.engine_stats()["kv_pool_evictable"]
    t.evict_radix(prefix_tokens=_B[:length])
    yield
    dropped = before - t.engine_stats()["kv_pool_evictable"]
    # Up to the token where they part it is both prompts, beyond it is what B has alone.
    assert (dropped >= 70) == (length <= 30)
    assert dropped < 80
    hit = t.start_req(input_ids=[*other, 5], max_new_tokens=2, ignore_eos=True)
    yield from run_until_finished(hit)
    yield from settle(t)
    require_at_rest(t)


def test_a_prefix_that_is_not_there_evicts_nothing(t, core):
    yield from _warm(t, _A)
    before = t.engine_stats()
    for prefix in ([400, 401], [*_A, 400], [*_A[:20], 400]):
        t.evict_radix(prefix_tokens=prefix)
        yield
        assert t.engine_stats() == before


def test_pages_are_shared_evicted_and_come_back(t, core):
    prompt = [1 + i % 400 for i in range(3 * CHUNK_TOKENS)]
    first = t.start_req(input_ids=prompt, max_new_tokens=4, ignore_eos=True)
    yield from run_until_finished(first)
    yield from settle(t)
    again = t.start_req(input_ids=prompt, max_new_tokens=4, ignore_eos=True)
    yield from run_until_finished(again)
    assert again.chunks_done == 0
    assert again.output_ids == first.output_ids
    yield from settle(t)
    t.exhaust_kv(leave_pages=100)
    yield
    assert t.engine_stats()["kv_pool_free"] + t.engine_stats()["kv_pool_evictable"] == 100
    t.release_exhausted()
    yield
    t.evict_radix()
    yield
    assert _counts(t) == {}
    assert t.engine_stats()["kv_pool_free"] == t.engine_stats()["kv_pool_total"]
