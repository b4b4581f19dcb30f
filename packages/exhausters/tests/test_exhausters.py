"""What each exhauster takes, leaves and gives back, on a real scheduler."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scripted_core.errors import CapabilityMissing, ConfigError, ExhaustError
from scripted_core.ports import bind_port, unbind_port
from scripted_core.sessions.in_process import InProcessSession
from scripted_exhausters import (
    ScriptedKvPoolExhauster,
    ScriptedLockRefExhauster,
    ScriptedRowPoolExhauster,
)
from scripted_registry import get_plugin_manager
from scripted_registry.ci import register_cpu_ci

register_cpu_ci(est_time=2, stage="single", runner_config="cpu")

_POOL_TOKENS = 512
_ROWS = 4

pytestmark = pytest.mark.scripted(
    max_total_tokens=_POOL_TOKENS,
    max_running_requests=_ROWS,
    chunked_prefill_size=64,
    context_length=256,
)


def _fill_tree(t, *lengths):
    """One node of each length, with nothing in common."""
    for first, length in enumerate(lengths):
        tokens = [(100 * first + i) % (t.engine.vocab_size - 1) + 1 for i in range(length)]
        r = t.start_req(input_ids=tokens, max_new_tokens=1, ignore_eos=True)
        while not r.finished:
            yield
    while not t.is_fully_idle:
        yield


def _free(t):
    return t.engine_stats()["kv_pool_free"]


def _evictable(t):
    return t.engine_stats()["kv_pool_evictable"]


# -- kv --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("leave", [0, 1, 7, _POOL_TOKENS])
def test_kv_takes_all_but_what_it_leaves(t, leave):
    yield
    exhauster = ScriptedKvPoolExhauster(t.scheduler)
    exhauster.exhaust(leave_pages=leave)
    assert _free(t) == leave
    assert t.engine.kv_pools["full"].held == _POOL_TOKENS - leave
    exhauster.release()
    assert _free(t) == _POOL_TOKENS
    assert t.engine.kv_pools["full"].held == 0


def test_kv_leaves_the_tree_alone_as_far_as_it_can(t):
    yield from _fill_tree(t, 40, 30)
    exhauster = ScriptedKvPoolExhauster(t.scheduler)
    exhauster.exhaust(leave_pages=100)
    assert (_free(t), _evictable(t)) == (30, 70)
    exhauster.release()


def test_kv_evicts_what_the_tree_has_more_than_is_left(t):
    yield from _fill_tree(t, 40, 30)
    exhauster = ScriptedKvPoolExhauster(t.scheduler)
    exhauster.exhaust(leave_pages=35)
    assert _free(t) + _evictable(t) == 35
    # The node of 40 was the least recently used one; the 5 pages too many stay free.
    assert (_free(t), _evictable(t)) == (5, 30)
    exhauster.release()
    assert _free(t) == _POOL_TOKENS - 30


def test_kv_can_empty_the_tree_first(t):
    yield from _fill_tree(t, 40, 30)
    exhauster = ScriptedKvPoolExhauster(t.scheduler)
    exhauster.exhaust(leave_pages=100, evictable="evict")
    assert (_free(t), _evictable(t)) == (100, 0)
    exhauster.release()
    assert _free(t) == _POOL_TOKENS


def test_kv_twice_takes_the_rest_and_gives_all_back(t):
    yield
    exhauster = ScriptedKvPoolExhauster(t.scheduler)
    exhauster.exhaust(leave_pages=100)
    exhauster.exhaust(leave_pages=10)
    exhauster.exhaust(leave_pages=10)
    assert _free(t) == 10
    with pytest.raises(ExhaustError, match="leave_pages=11 is more than the 10"):
        exhauster.exhaust(leave_pages=11)
    assert _free(t) == 10
    exhauster.release()
    exhauster.release()
    assert _free(t) == _POOL_TOKENS


def test_kv_refuses_what_is_impossible(t):
    yield
    exhauster = ScriptedKvPoolExhauster(t.scheduler)
    with pytest.raises(ConfigError, match="leave_pages=-1"):
        exhauster.exhaust(leave_pages=-1)
    with pytest.raises(ConfigError, match="leave_pages=True"):
        exhauster.exhaust(leave_pages=True)
    with pytest.raises(ConfigError, match="no KV pool 'swa'"):
        exhauster.exhaust(leave_pages=0, pool="swa")
    assert _free(t) == _POOL_TOKENS


@pytest.mark.scripted(page_size=16)
def test_kv_counts_pages_not_tokens(t):
    yield from _fill_tree(t, 48)
    exhauster = ScriptedKvPoolExhauster(t.scheduler)
    exhauster.exhaust(leave_pages=5)
    assert (_free(t), _evictable(t)) == (2, 3)
    exhauster.release()
    assert _free(t) == _POOL_TOKENS // 16 - 3


@settings(max_examples=40, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 90), max_size=4),
    leaves=st.lists(st.integers(0, _POOL_TOKENS), min_size=1, max_size=4),
    evict_first=st.booleans(),
)
def test_kv_always_leaves_what_was_asked_for_and_loses_nothing(lengths, leaves, evict_first):
    def script(t):
        yield from _fill_tree(t, *lengths)
        exhauster = ScriptedKvPoolExhauster(t.scheduler)
        mode = "evict" if evict_first else "count"
        for leave in sorted(leaves, reverse=True):
            exhauster.exhaust(leave_pages=leave, evictable=mode)
            assert _free(t) + _evictable(t) == leave
        exhauster.release()
        assert _free(t) + _evictable(t) == _POOL_TOKENS

    with InProcessSession.start(
        max_total_tokens=_POOL_TOKENS, chunked_prefill_size=64, context_length=256
    ) as session:
        session.execute_script(script)


# -- lock refs -------------------------------------------------------------------------------------


@pytest.mark.parametrize("leave", [0, 1, 2, 5])
def test_lock_refs_leaves_so_many_nodes_unlocked(t, leave):
    yield from _fill_tree(t, 10, 20, 30)
    exhauster = ScriptedLockRefExhauster(t.scheduler)
    exhauster.exhaust(leave_refs=leave)
    refs = list(t.get_all_node_lock_refs().values())
    assert len(refs) == 3
    assert refs.count(0) == min(leave, 3)
    exhauster.release()
    exhauster.release()
    assert set(t.get_all_node_lock_refs().values()) == {0}


@pytest.mark.parametrize("leave", [0, 1, 2])
def test_lock_refs_counts_every_node_of_a_path(t, leave):
    # Two prompts with a common beginning: a parent and two leaves below it.
    for tail in (7, 8):
        r = t.start_req(input_ids=[1, 2, 3, 4, tail], max_new_tokens=1, ignore_eos=True)
        while not r.finished:
            yield
    while not t.is_fully_idle:
        yield
    assert len(t.get_all_node_lock_refs()) == 3
    exhauster = ScriptedLockRefExhauster(t.scheduler)
    exhauster.exhaust(leave_refs=leave)
    refs = list(t.get_all_node_lock_refs().values())
    assert refs.count(0) == leave
    exhauster.release()
    assert set(t.get_all_node_lock_refs().values()) == {0}


def test_lock_refs_keeps_nodes_from_eviction(t):
    yield from _fill_tree(t, 10, 20, 30)
    exhauster = ScriptedLockRefExhauster(t.scheduler)
    exhauster.exhaust(leave_refs=0)
    assert _evictable(t) == 0
    assert t.engine.prefix_tree.evict(60) == 0
    assert len(t.get_all_node_lock_refs()) == 3
    exhauster.release()
    assert t.engine.prefix_tree.evict(60) == 60


def test_lock_refs_leaves_the_locks_of_requests_alone(t):
    r = t.start_req(prompt_len=20, max_new_tokens=10, ignore_eos=True)
    while len(r.output_ids) < 2:
        yield
    before = t.get_all_node_lock_refs()
    assert max(before.values()) >= 1
    exhauster = ScriptedLockRefExhauster(t.scheduler)
    exhauster.exhaust(leave_refs=0)
    assert t.get_all_node_lock_refs() == before
    exhauster.release()
    while not r.finished:
        yield


def test_lock_refs_of_an_empty_tree_do_nothing(t):
    yield
    exhauster = ScriptedLockRefExhauster(t.scheduler)
    exhauster.exhaust(leave_refs=0)
    assert t.get_all_node_lock_refs() == {}
    exhauster.release()
    with pytest.raises(ConfigError, match="leave_refs=-2"):
        exhauster.exhaust(leave_refs=-2)


@pytest.mark.scripted(disable_radix_cache=True)
def test_without_a_tree_there_is_nothing_to_lock(t):
    yield
    ScriptedLockRefExhauster(t.scheduler).exhaust(leave_refs=0)
    with pytest.raises(CapabilityMissing, match="lock_refs"):
        t.exhaust_lock_refs(leave_refs=0)


# -- rows ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("leave", [0, 1, _ROWS])
def test_rows_takes_all_but_what_it_leaves(t, leave):
    yield
    exhauster = ScriptedRowPoolExhauster(t.scheduler)
    exhauster.exhaust(leave_rows=leave)
    assert t.engine_stats()["req_pool_free"] == leave
    assert t.engine.rows.held == _ROWS - leave
    exhauster.release()
    exhauster.release()
    assert t.engine_stats()["req_pool_free"] == _ROWS


def test_rows_refuses_to_leave_more_than_there_are(t):
    yield
    exhauster = ScriptedRowPoolExhauster(t.scheduler)
    exhauster.exhaust(leave_rows=2)
    with pytest.raises(ExhaustError, match="leave_rows=3 is more than the 2 free rows"):
        exhauster.exhaust(leave_rows=3)
    with pytest.raises(ConfigError, match="leave_rows=-1"):
        exhauster.exhaust(leave_rows=-1)
    assert t.engine_stats()["req_pool_free"] == 2
    exhauster.release()


def test_rows_of_an_engine_without_them():
    class Portless:
        name = "rowless"
        rows = None

    scheduler = Portless()
    bind_port(scheduler, scheduler)
    try:
        with pytest.raises(CapabilityMissing, match="'rowless'"):
            ScriptedRowPoolExhauster(scheduler).exhaust(leave_rows=0)
    finally:
        unbind_port(scheduler)


# -- through the script's own calls ----------------------------------------------------------------


def test_the_three_are_registered():
    exhausters = get_plugin_manager().exhausters()
    assert exhausters["kv"].factory is ScriptedKvPoolExhauster
    assert exhausters["lock_refs"].factory is ScriptedLockRefExhauster
    assert exhausters["rows"].factory is ScriptedRowPoolExhauster
    assert exhausters["kv"].capability is None
    assert exhausters["lock_refs"].capability == "lock_refs"
    assert exhausters["rows"].capability == "row_pool"


def test_all_at_once_and_one_release(t):
    yield from _fill_tree(t, 10, 20)
    t.exhaust_kv(leave_pages=30)
    t.exhaust_lock_refs(leave_refs=1)
    t.exhaust("rows", leave_rows=0)
    yield
    assert _free(t) == 0
    assert list(t.get_all_node_lock_refs().values()).count(0) == 1
    assert t.engine_stats()["req_pool_free"] == 0
    t.release_exhausted()
    yield
    assert _free(t) + _evictable(t) == _POOL_TOKENS
    assert t.engine_stats()["req_pool_free"] == _ROWS


def _leave_everything_held(t):
    yield from _fill_tree(t, 10, 20)
    t.exhaust_kv(leave_pages=0)
    t.exhaust("rows", leave_rows=0)
    yield


def _find_everything_free(t):
    assert t.engine_stats()["kv_pool_free"] == _POOL_TOKENS
    assert t.engine_stats()["req_pool_free"] == _ROWS
    yield


def test_the_next_script_finds_everything_released(scripted_session):
    scripted_session.execute_script(_leave_everything_held)
    scripted_session.execute_script(_find_everything_free)


def test_a_hold_refused_at_its_turn_takes_nothing(t):
    """Two posts that are possible alone: the second finds the pool as the first left it."""
    yield
    t.exhaust_kv(leave_pages=5)
    t.exhaust_kv(leave_pages=20)
    with pytest.raises(ExhaustError, match="leave_pages=20 is more than the 5"):
        yield
    yield
    assert _free(t) == 5
