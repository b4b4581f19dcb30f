"""Scripts on two ranks that serve every request together: what happens to memory, happens on both."""

from __future__ import annotations

import pytest
from scripted_backend_single import single_device_kwargs
from scripted_chunked import (
    advance_to_decode_step,
    advance_to_nth_chunk,
    run_until,
    run_until_all_finished,
    run_until_finished,
    run_until_seen_everywhere,
    settle,
    warmup_radix,
)
from scripted_core import InProcessSession
from scripted_registry.ci import register_cpu_ci
from scripted_sglang import launch

register_cpu_ci(est_time=150, stage="single-sglang", runner_config="cpu")

PROMPT_LENS = (20, 100, 257)
NEW_TOKENS = 24
_MOST_STEPS = 5_000


def _two(**size):
    return pytest.mark.scripted(**single_device_kwargs(model_path="tiny", **size))


pytestmark = [
    pytest.mark.usefixtures("breakable_ranks"),
    pytest.mark.skipif(
        launch.check_usable() is not None,
        reason=f"needs the capability 'an installed SGLang': {launch.check_usable()}",
    ),
    pytest.mark.parametrize(
        "ranks",
        [
            pytest.param(("tp0", "tp1"), id="tp2", marks=_two(tp_size=2)),
            pytest.param(("pp0", "pp1"), id="pp2", marks=_two(pp_size=2)),
        ],
    ),
]


def _start_all(t):
    return [
        t.start_req(prompt_len=n, seed=n, max_new_tokens=NEW_TOKENS, ignore_eos=True)
        for n in PROMPT_LENS
    ]


def _figures(t, name):
    return [view.stats[name] for view in t.ranks]


@pytest.fixture(scope="module")
def expected():
    """What the reference engine answers, with whole prompts and no prefix tree."""
    outputs = []

    def script(t):
        handles = _start_all(t)
        yield from run_until_all_finished(handles)
        outputs.extend(handle.output_ids for handle in handles)

    kwargs = single_device_kwargs(
        model_path="tiny", chunked_prefill_size=-1, disable_radix_cache=True
    )
    with InProcessSession.start(backend="reference", **kwargs) as session:
        session.execute_script(script)
    assert len({tuple(output) for output in outputs}) == len(PROMPT_LENS)
    return outputs


# -- what a script sees of them ------------------------------------------------------------------


def test_every_rank_has_figures_of_its_own(t, ranks):
    assert [(view.rank, view.step) for view in t.ranks] == [(ranks[0], 0), (ranks[1], 0)]
    yield from run_until_seen_everywhere(t)
    driver, other = t.ranks
    assert (driver.rank, other.rank) == ranks
    assert (driver.is_driver, other.is_driver) == (True, False)
    assert driver.stats == t.engine_stats() == other.stats
    assert driver.step == t.step_index
    assert other.step == driver.step - (1 if ranks[1] == "pp1" else 0)


def test_a_request_is_in_the_queues_of_every_rank(t, ranks):
    r = t.start_req(prompt_len=200, seed=1, max_new_tokens=4, ignore_eos=True)
    yield from run_until_seen_everywhere(t)
    assert r.is_chunking
    assert [view.queues.chunked for view in t.ranks] == [(r.rid,), (r.rid,)]
    free = _figures(t, "kv_pool_free")
    assert all(count < t.ranks[0].stats["kv_pool_total"] for count in free)
    yield from run_until_finished(r)
    yield from run_until_seen_everywhere(t)
    assert [view.queues.chunked for view in t.ranks] == [(), ()]


# -- memory --------------------------------------------------------------------------------------


@pytest.mark.parametrize("leave_pages", [0, 10])
def test_exhaust_kv_takes_from_every_rank(t, ranks, leave_pages):
    yield from run_until_seen_everywhere(t)
    total = t.engine_stats()["kv_pool_total"]
    assert _figures(t, "kv_pool_free") == [total, total]
    t.exhaust_kv(leave_pages=leave_pages)
    yield from run_until_seen_everywhere(t)
    assert _figures(t, "kv_pool_free") == [leave_pages, leave_pages]
    assert [view.held for view in t.ranks] == [{"full": total - leave_pages}] * 2
    t.release_exhausted()
    yield from run_until_seen_everywhere(t)
    assert _figures(t, "kv_pool_free") == [total, total]
    assert [view.held for view in t.ranks] == [{"full": 0}] * 2


def test_exhaust_kv_counts_what_every_rank_could_evict(t, ranks):
    yield from warmup_radix(t, list(range(1, 101)))
    yield from run_until_seen_everywhere(t)
    assert min(_figures(t, "kv_pool_evictable")) >= 100
    t.exhaust_kv(leave_pages=120)
    yield from run_until_seen_everywhere(t)
    free, evictable = _figures(t, "kv_pool_free"), _figures(t, "kv_pool_evictable")
    assert [a + b for a, b in zip(free, evictable, strict=True)] == [120, 120]
    t.exhaust_kv(leave_pages=0, evictable="evict")
    yield from run_until_seen_everywhere(t)
    assert _figures(t, "kv_pool_evictable") == _figures(t, "kv_pool_free") == [0, 0]


def test_a_request_waits_for_pages_on_every_rank(t, ranks):
    t.exhaust_kv(leave_pages=30)
    yield
    r = t.start_req(prompt_len=60, seed=2, max_new_tokens=4, ignore_eos=True)
    for _ in range(10):
        yield
    assert r.status == "waiting"
    assert [view.queues.waiting for view in t.ranks] == [(r.rid,), (r.rid,)]
    t.release_exhausted()
    yield from run_until_finished(r)


def test_lock_refs_keep_every_rank_from_evicting(t, ranks):
    yield from warmup_radix(t, list(range(1, 101)))
    t.exhaust_lock_refs(leave_refs=0)
    yield from run_until_seen_everywhere(t)
    assert _figures(t, "kv_pool_evictable") == [0, 0]
    t.evict_radix()
    yield from run_until_seen_everywhere(t)
    free = _figures(t, "kv_pool_free")
    assert max(free) <= t.engine_stats()["kv_pool_total"] - 100
    t.release_exhausted()
    t.evict_radix()
    yield from run_until_seen_everywhere(t)
    assert _figures(t, "kv_pool_free") == [t.engine_stats()["kv_pool_total"]] * 2


def test_rows_are_held_on_every_rank(t, ranks):
    t.exhaust("rows", leave_rows=1)
    yield from run_until_seen_everywhere(t)
    assert _figures(t, "req_pool_free") == [1, 1]
    assert [view.held_rows for view in t.ranks] == [t.engine_stats()["req_pool_total"] - 1] * 2
    t.release_exhausted()
    yield from run_until_seen_everywhere(t)
    assert _figures(t, "req_pool_free") == [t.engine_stats()["req_pool_total"]] * 2


def test_one_prefix_is_evicted_on_every_rank(t, ranks):
    yield from warmup_radix(t, [7] * 50)
    yield from warmup_radix(t, [9] * 50)
    yield from run_until_seen_everywhere(t)
    before = _figures(t, "kv_pool_evictable")
    t.evict_radix(prefix_tokens=[7] * 10)
    yield from run_until_seen_everywhere(t)
    after = _figures(t, "kv_pool_evictable")
    assert after[0] == after[1]
    assert 40 <= before[0] - after[0] <= 60


def test_a_flush_empties_every_rank_and_keeps_what_is_held(t, ranks):
    yield from warmup_radix(t, list(range(1, 101)))
    yield from settle(t, max_steps=_MOST_STEPS)
    t.exhaust_kv(leave_pages=200)
    yield from run_until_seen_everywhere(t)
    held = [view.held["full"] for view in t.ranks]
    receipt = t.flush_cache()
    yield from run_until_seen_everywhere(t)
    assert receipt.ok
    assert _figures(t, "kv_pool_evictable") == [0, 0]
    assert [view.held["full"] for view in t.ranks] == held
    total = t.engine_stats()["kv_pool_total"]
    assert _figures(t, "kv_pool_free") == [total - held[0]] * 2


def test_aborts_reach_every_rank(t, ranks):
    chunking = t.start_req(prompt_len=257, seed=3, max_new_tokens=4, ignore_eos=True)
    yield from advance_to_nth_chunk(chunking, 2)
    waiting = t.start_req(prompt_len=100, seed=4, max_new_tokens=4, ignore_eos=True)
    yield
    t.abort(chunking)
    yield from run_until_finished(chunking)
    assert chunking.status == "aborted"
    t.abort_all()
    yield from run_until_finished(waiting)
    yield from settle(t, max_steps=_MOST_STEPS)
    yield from run_until_seen_everywhere(t)
    assert [view.queues.running + view.queues.waiting for view in t.ranks] == [(), ()]
    free, evictable = _figures(t, "kv_pool_free"), _figures(t, "kv_pool_evictable")
    assert [a + b for a, b in zip(free, evictable, strict=True)] == (
        [t.engine_stats()["kv_pool_total"]] * 2
    )


# -- outputs -------------------------------------------------------------------------------------


def test_outputs_are_those_of_the_reference_engine(t, ranks, expected):
    handles = _start_all(t)
    yield from run_until_all_finished(handles)
    assert [handle.output_ids for handle in handles] == expected
    assert [handle.chunks_done for handle in handles] == [0, 2, 5] or handles[1].chunks_done == 3


def test_a_retraction_changes_none_of_them(t, ranks, expected):
    handles = _start_all(t)
    yield from advance_to_nth_chunk(handles[-1], 2)
    yield from _retract_and_continue(t, handles[-1])
    yield from advance_to_decode_step(handles[-1], 5)
    yield from _retract_and_continue(t, handles[-1])
    yield from run_until_all_finished(handles)
    assert [handle.output_ids for handle in handles] == expected


def _retract_and_continue(t, handle):
    t.pause_generation(mode="retract")
    yield from run_until(handle, lambda _: not t.queues.running and not t.queues.chunked)
    yield from run_until_seen_everywhere(t)
    assert [view.is_paused for view in t.ranks] == [True, True]
    waiting = [view.queues.waiting for view in t.ranks]
    assert waiting[0] == waiting[1] != ()
    t.continue_generation()


def test_pressure_changes_none_of_them(t, ranks, expected):
    handles = _start_all(t)
    yield from advance_to_decode_step(handles[-1], 3)
    # Less than all three can have together: one after the other is retracted and computed anew.
    t.exhaust_kv(leave_pages=6)
    for _ in range(12):
        yield
    assert any(handle.status == "waiting" for handle in handles)
    t.release_exhausted()
    yield from run_until_all_finished(handles)
    assert [handle.output_ids for handle in handles] == expected


def test_a_reused_prefix_changes_none_of_them(t, ranks, expected):
    for _ in range(2):
        handles = _start_all(t)
        yield from run_until_all_finished(handles)
        assert [handle.output_ids for handle in handles] == expected
    # The second time the prompts are in the tree, all but their last token.
    assert handles[-1].chunks_done == 0
