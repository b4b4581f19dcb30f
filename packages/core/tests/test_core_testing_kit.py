from __future__ import annotations

import sys

import pytest
import zmq
from hypothesis import given
from hypothesis import strategies as st
from scripted_core.errors import ConfigError, ExhaustError
from scripted_core.ops import AbortAll, Continue, Flush, Pause
from scripted_core.requests import ClientStream, ReqSpec
from scripted_core.testing import (
    FakeEngine,
    FakeKvPool,
    FakePrefixTree,
    FakeRowPool,
    FakeUnderlyingSocket,
    expected_output,
)
from scripted_core.views import FinishKind, PauseMode
from scripted_registry.ci import register_cpu_ci

register_cpu_ci(est_time=2, stage="unit", runner_config="cpu")


@pytest.mark.parametrize("make", [FakeKvPool, FakeRowPool])
class TestPools:
    def test_a_hold_takes_and_gives_back(self, make):
        pool = make(total=5)
        hold = pool.hold(3)
        assert (hold.count, pool.available, pool.held, pool.total) == (3, 2, 3, 5)
        pool.release(hold)
        assert (pool.available, pool.held) == (5, 0)

    def test_more_than_is_free_is_refused_and_changes_nothing(self, make):
        pool = make(total=5)
        pool.allocate(2)
        with pytest.raises(ExhaustError, match=r"4 .* 3 are free"):
            pool.hold(4)
        assert (pool.available, pool.held) == (3, 0)

    def test_a_hold_is_released_once_and_at_home(self, make):
        pool, other = make(total=5), make(total=5)
        hold = pool.hold(1)
        with pytest.raises(ExhaustError):
            other.release(hold)
        pool.release(hold)
        with pytest.raises(ExhaustError):
            pool.release(hold)


class TestPrefixTree:
    def tree(self):
        freed: list[int] = []
        tree = FakePrefixTree(page_size=2, free_pages=freed.extend)
        return tree, freed

    def test_insert_match_and_duplicates(self):
        tree, _ = self.tree()
        assert tree.insert([1, 2, 3, 4], [10, 11]) == []
        assert tree.insert([1, 2, 5, 6], [12, 13]) == [12]
        assert [node.page for node in tree.match([1, 2, 3, 4, 9])] == [10, 11]
        assert [node.page for node in tree.match([1, 9])] == []
        assert sorted(tree.pages()) == [10, 11, 13]
        assert {node.page: node.hit_count for node in tree.nodes()} == {10: 1, 11: 1, 13: 0}

    def test_eviction_takes_the_least_recently_used_leaf_and_no_locked_one(self):
        tree, freed = self.tree()
        tree.insert([1, 2, 3, 4], [10, 11])
        tree.insert([5, 6], [12])
        tree.match([1, 2, 3, 4])
        assert tree.evict(1) == 1
        assert freed == [12]
        lock = tree.lock(next(node for node in tree.nodes() if node.page == 11))
        assert [node.lock_ref for node in tree.nodes()] == [1, 1]
        assert tree.evict(5) == 0
        assert tree.held_locks == 1
        tree.unlock(lock)
        with pytest.raises(ExhaustError):
            tree.unlock(lock)
        assert tree.evict(5) == 2
        assert freed == [12, 11, 10]

    def test_a_subtree_is_evicted_alone(self):
        tree, freed = self.tree()
        tree.insert([1, 2, 3, 4], [10, 11])
        tree.insert([5, 6], [12])
        assert tree.evict_prefix([9, 9]) == 0
        assert tree.evict_prefix([1, 2]) == 2
        assert sorted(freed) == [10, 11]
        assert tree.evict_prefix(None) == 1


def drive(engine, *, steps=500):
    for _ in range(steps):
        if engine.is_fully_idle():
            return
        engine.iterate()
    raise AssertionError("the engine did not come to rest")


def page_owners(engine):
    """Every page once: free, tree and own pages of live requests."""
    pages = [*engine.kv_pool.free_ids, *engine.kv_pool.held_ids, *engine.prefix_tree.pages()]
    for request in (engine.find_native(view.rid) for view in engine.requests()):
        pages += request.pages
    return sorted(pages)


prompts = st.lists(st.integers(1, 3), min_size=1, max_size=30).map(tuple)


@given(
    prompts=st.lists(st.tuples(prompts, st.integers(1, 10)), min_size=1, max_size=5),
    num_pages=st.integers(12, 40),
    page_size=st.sampled_from([1, 4]),
    chunk_size=st.sampled_from([4, 16]),
    pauses=st.lists(st.sampled_from([*PauseMode, None]), max_size=12),
)
def test_the_output_is_right_however_it_is_scheduled(
    prompts, num_pages, page_size, chunk_size, pauses
):
    engine = FakeEngine(
        num_pages=num_pages * 4 // page_size, page_size=page_size, chunk_size=chunk_size
    )
    clients = []
    for n, (prompt, max_new_tokens) in enumerate(prompts):
        clients.append(ClientStream())
        spec = ReqSpec(rid=f"r{n}", input_ids=prompt, max_new_tokens=max_new_tokens)
        assert engine.submit(spec, clients[-1]) is None
    for mode in pauses:
        engine.control(Continue() if mode is None else Pause(mode))
        engine.iterate()
        assert page_owners(engine) == list(range(engine.kv_pool.total))
    engine.control(Continue())
    drive(engine)
    for (prompt, max_new_tokens), client in zip(prompts, clients, strict=True):
        assert client.token_ids == expected_output(prompt, max_new_tokens=max_new_tokens)
        assert client.finish_reason.kind is FinishKind.LENGTH
    assert page_owners(engine) == list(range(engine.kv_pool.total))
    assert engine.rows.available == engine.rows.total
    assert {node.lock_ref for node in engine.prefix_tree.nodes()} <= {0}
    receipt = engine.control(Flush())
    engine.iterate()
    assert receipt.ok
    assert engine.kv_pool.available == engine.kv_pool.total


def test_abort_all_gives_everything_back():
    engine = FakeEngine()
    clients = [ClientStream() for _ in range(3)]
    for n, client in enumerate(clients):
        engine.submit(ReqSpec(rid=f"r{n}", input_ids=(n + 1,) * 30, max_new_tokens=50), client)
    engine.iterate()
    engine.iterate()
    engine.control(AbortAll())
    engine.iterate()
    assert engine.is_fully_idle()
    assert {client.finish_reason.kind for client in clients} == {FinishKind.ABORT}
    assert engine.rows.available == engine.rows.total


def test_a_request_that_never_fits_is_aborted_and_does_not_hang():
    engine = FakeEngine(num_pages=4, page_size=4)
    client = ClientStream()
    engine.submit(ReqSpec(rid="big", input_ids=(1,) * 10, max_new_tokens=50), client)
    drive(engine)
    assert client.finish_reason.kind is FinishKind.ABORT
    assert "too small" in client.finish_reason.message


def test_an_audit_without_numpy_names_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "numpy", None)
    with pytest.raises(ConfigError, match="numpy"):
        FakeEngine().audit()


def test_the_fake_socket_is_pollable():
    socket = FakeUnderlyingSocket()
    try:
        poller = zmq.Poller()
        poller.register(socket, zmq.POLLIN)
        assert poller.poll(0) == []
        socket.put("a")
        socket.put("b")
        assert len(socket) == 2
        assert socket.recv_pyobj() == "a"
        assert poller.poll(0)
        assert socket.recv_pyobj(zmq.NOBLOCK) == "b"
        assert poller.poll(0) == []
        with pytest.raises(zmq.Again):
            socket.recv_pyobj(zmq.NOBLOCK)
    finally:
        socket.close()
        socket.close()
