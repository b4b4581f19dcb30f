from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from scripted_core.errors import ExhaustError
from scripted_core.views import OwnerKind, RequestStatus
from scripted_registry.ci import register_cpu_ci
from scripted_sglang import _compat
from scripted_sglang.memory import SglangKvPool, SglangPrefixTree, SglangRowPool
from scripted_sglang.state import SchedulerState

register_cpu_ci(est_time=1, stage="unit", runner_config="cpu")
register_cpu_ci(est_time=1, stage="single-sglang", runner_config="cpu")


def _kv_pool(allocator: Any, *, evictable_tokens: int = 0) -> SglangKvPool:
    return SglangKvPool(
        name="full",
        allocator=allocator,
        page_size=allocator.page_size,
        evictable_tokens=lambda: evictable_tokens,
    )


# -- KV pages and rows ---------------------------------------------------------------------------


@pytest.mark.parametrize("page_size", [1, 4])
def test_holds_take_pages_and_give_back_the_same(fakes: Any, page_size: int) -> None:
    allocator = fakes.Allocator(pages=6, page_size=page_size)
    pool = _kv_pool(allocator, evictable_tokens=2 * page_size)
    first, second = pool.hold(2), pool.hold(3)
    assert (pool.total, pool.available, pool.held, pool.evictable) == (6, 1, 5, 2)
    assert sorted([*pool.held_pages(), *pool.free_pages()]) == [1, 2, 3, 4, 5, 6]
    pool.release(first)
    assert (pool.available, pool.held) == (3, 3)
    assert len(set(pool.held_pages()) & set(pool.free_pages())) == 0
    pool.release(second)
    assert (pool.available, pool.held) == (6, 0)


def test_free_pages_of_an_older_allocator_are_on_two_lists(fakes: Any) -> None:
    old = SimpleNamespace(free_pages=fakes.Tensor([4, 5]), release_pages=fakes.Tensor([1]))
    assert _compat.free_pages(old).tolist() == [4, 5, 1]


def test_a_hold_of_nothing_and_one_of_too_much(fakes: Any) -> None:
    pool = _kv_pool(fakes.Allocator(pages=3, page_size=2))
    empty = pool.hold(0)
    assert pool.held_pages().tolist() == []
    with pytest.raises(ExhaustError, match="4 pages of KV pool 'full' cannot be held: 3 are free"):
        pool.hold(4)
    assert (pool.available, pool.held) == (3, 0)
    pool.release(empty)


def test_after_a_flush_as_much_is_held_as_before_and_nothing_twice(fakes: Any) -> None:
    allocator, rows = fakes.Allocator(pages=6, page_size=2), fakes.Rows(rows=5)
    pool, row_pool = _kv_pool(allocator), SglangRowPool(rows)
    in_the_way = pool.hold(1)
    holds = [pool.hold(2), pool.hold(0), pool.hold(2)]
    row_hold = row_pool.hold(3)
    pool.release(in_the_way)
    allocator.clear()
    rows.clear()
    pool.take_again()
    row_pool.take_again()
    assert (pool.available, pool.held) == (2, 4)
    assert sorted([*pool.held_pages(), *pool.free_pages()]) == [1, 2, 3, 4, 5, 6]
    assert (row_pool.available, row_pool.held) == (2, 3)
    assert sorted([*row_pool.held_rows, *row_pool.free_rows]) == [1, 2, 3, 4, 5]
    for hold in holds:
        pool.release(hold)
    row_pool.release(row_hold)
    assert (pool.available, row_pool.available) == (6, 5)


def test_rows_are_taken_from_the_end_and_never_too_many(fakes: Any) -> None:
    pool = SglangRowPool(fakes.Rows(rows=4))
    hold = pool.hold(3)
    assert (hold.rows, pool.free_rows, pool.total) == ([2, 3, 4], [1], 4)
    with pytest.raises(ExhaustError, match="2 request rows cannot be held: 1 are free"):
        pool.hold(2)
    empty = pool.hold(0)
    assert empty.count == 0
    assert pool.free_rows == [1]
    pool.release(hold)
    assert sorted(pool.free_rows) == [1, 2, 3, 4]


# -- prefix tree ---------------------------------------------------------------------------------


@pytest.fixture
def tree(fakes: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """``1 2 3 4`` splits into ``5 6`` and ``7 8``; beside it stands ``9 9``."""
    native = fakes.Tree()
    trunk = native.root_node.add((1, 2, 3, 4), (2, 3, 4, 5))
    trunk.add((5, 6), (6, 7))
    trunk.add((7, 8), (8, 9))
    native.root_node.add((9, 9), (10, 11))
    monkeypatch.setattr(_compat, "evict_tokens", lambda tree, tokens, **_: tree.evict(tokens))
    return native


def _edges(native: Any) -> set[tuple[int, ...]]:
    return {_compat.node_token_ids(node) for node in _compat.tree_nodes(native)}


@pytest.mark.parametrize(
    ("prefix", "pages", "left"),
    [
        (None, 5, set()),
        ((1, 2, 3, 4, 5, 6), 1, {(1, 2, 3, 4), (7, 8), (9, 9)}),
        # A prefix that ends inside an edge: all of that node begins with it.
        ((1, 2, 3, 4, 5), 1, {(1, 2, 3, 4), (7, 8), (9, 9)}),
        ((1, 2, 3, 4), 4, {(9, 9)}),
        ((9, 9), 1, {(1, 2, 3, 4), (5, 6), (7, 8)}),
        ((4, 4), 0, {(1, 2, 3, 4), (5, 6), (7, 8), (9, 9)}),
    ],
)
def test_evicting_a_prefix_drops_what_is_below_it_and_nothing_else(
    tree: Any, prefix: tuple[int, ...] | None, pages: int, left: set[tuple[int, ...]]
) -> None:
    view = SglangPrefixTree(tree, page_size=2)
    assert view.evict_prefix(prefix) == pages
    assert _edges(tree) == left
    assert view.held_locks == 0
    assert all(node.lock_ref == 0 for node in view.nodes())


def test_a_locked_branch_survives_and_eviction_unlocks_what_it_locked(tree: Any) -> None:
    view = SglangPrefixTree(tree, page_size=2)
    kept = next(node for node in view.nodes() if node.native.key.token_ids == [5, 6])
    lock = view.lock(kept)
    assert (kept.lock_ref, view.held_locks) == (1, 1)
    assert view.evict_prefix(None) == 2
    assert _edges(tree) == {(1, 2, 3, 4), (5, 6)}
    view.unlock(lock)
    assert view.evict(1) == 1
    assert (view.held_locks, _edges(tree)) == (0, {(1, 2, 3, 4)})


def test_locks_are_undone_when_the_eviction_fails(
    tree: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any, **__: Any) -> None:
        raise RuntimeError("no")

    monkeypatch.setattr(_compat, "evict_tokens", broken)
    view = SglangPrefixTree(tree, page_size=2)
    with pytest.raises(RuntimeError, match="no"):
        view.evict_prefix((9, 9))
    assert view.held_locks == 0
    assert all(node.lock_ref == 0 for node in view.nodes())


def test_an_empty_tree_has_no_slots(fakes: Any) -> None:
    assert _compat.tree_tokens(fakes.Tree()).tolist() == []


# -- state and audit -----------------------------------------------------------------------------


def _state(scheduler: Any) -> SchedulerState:
    return SchedulerState(
        scheduler,
        pools={"full": _kv_pool(scheduler.token_to_kv_pool_allocator)},
        rows=SglangRowPool(scheduler.req_to_token_pool),
        tree=SglangPrefixTree(scheduler.tree_cache, page_size=scheduler.page_size),
    )


def test_a_request_is_found_wherever_it_stands_and_only_while_it_lives(fakes: Any) -> None:
    waiting, chunked, running, last, late, done = (
        fakes.request(rid, is_finished=rid == "done")
        for rid in ("waiting", "chunked", "running", "last", "late", "done")
    )
    state = _state(
        fakes.scheduler(
            waiting_queue=[waiting],
            chunked_req=chunked,
            running_batch=fakes.batch(running, done),
            last_batch=fakes.batch(last, chunked),
            result_queue=[(fakes.batch(late), "a result"), (fakes.batch(running), "b", "c")],
        )
    )
    assert list(state.live()) == ["waiting", "chunked", "running", "last", "late"]
    assert state.find("late") is late
    assert state.find("done") is None
    queues = state.queues()
    assert queues.waiting == ("waiting",)
    assert queues.chunked == ("chunked",)
    assert queues.running == ("running", "last", "late")


def test_a_retracted_request_that_is_still_in_a_result_counts_as_waiting(fakes: Any) -> None:
    req = fakes.request("back")
    state = _state(
        fakes.scheduler(waiting_queue=[req], result_queue=[(fakes.batch(req), "its result")])
    )
    assert state.queues().waiting == ("back",)
    assert state.queues().running == ()
    assert state.view(req).status is RequestStatus.WAITING


def test_a_view_says_how_far_a_prompt_is_and_what_it_holds(fakes: Any) -> None:
    scheduler = fakes.scheduler()
    node = scheduler.tree_cache.root_node.add((7, 7), (2, 3))
    node.lock_ref = 3
    req = fakes.request(
        "r", kv={"req_pool_idx": 2, "kv_allocated_len": 5, "cache_protected_len": 2}, last_node=node
    )
    scheduler.running_batch = fakes.batch(req)
    scheduler.chunked_req = req
    view = _state(scheduler).view(req)
    assert (view.prompt_len, view.computed_tokens, view.kv_pages) == (8, 5, 3)
    assert (view.lock_refs, view.is_chunking, view.priority) == (3, True, None)
    assert view.status is RequestStatus.RUNNING
    # Without a row it has nothing, whatever node it was last seen on.
    req.kv.req_pool_idx = None
    view = _state(scheduler).view(req)
    assert (view.computed_tokens, view.kv_pages, view.lock_refs) == (0, 0, 0)


def test_an_audit_names_each_page_and_row_once(fakes: Any) -> None:
    scheduler = fakes.scheduler()
    allocator, rows = scheduler.token_to_kv_pool_allocator, scheduler.req_to_token_pool
    slots = allocator.alloc(8).values  # pages 1 to 4
    scheduler.tree_cache.root_node.add((7, 7), tuple(slots[:2]))
    row = rows.free_slots.pop()
    rows.req_to_token.values[row, :7] = slots[:7]
    req = fakes.request(
        "r", kv={"req_pool_idx": row, "kv_allocated_len": 7, "cache_protected_len": 2}
    )
    scheduler.last_batch = fakes.batch(req)
    state = _state(scheduler)
    state._pools["full"].hold(2)
    audit = state.audit()
    (pool,) = audit.pools
    by_owner = {(claim.kind, claim.owner): sorted(claim.pages) for claim in pool.claims}
    assert by_owner == {
        (OwnerKind.FREE, "free"): [7, 8],
        (OwnerKind.TREE, "tree"): [1],
        (OwnerKind.HELD, "held"): [5, 6],
        (OwnerKind.REQUEST, "r"): [2, 3, 4],
    }
    assert [(claim.owner, sorted(claim.pages)) for claim in pool.references] == [("r", [1])]
    assert audit.rows.by_request == {"r": row}
    assert not audit.is_idle


def test_an_audit_at_rest_is_idle(fakes: Any) -> None:
    audit = _state(fakes.scheduler()).audit()
    assert audit.is_idle
    assert np.concatenate([claim.pages for claim in audit.pools[0].claims]).tolist() == [
        *range(1, 9)
    ]
