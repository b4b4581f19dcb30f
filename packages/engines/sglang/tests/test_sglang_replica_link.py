"""What replicas and their driver say to each other, without SGLang: a fake engine at the other end."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator

import pytest
from scripted_core.ops import AbortAll, Exhaust, Flush
from scripted_core.requests import ClientStream, ReqSpec
from scripted_core.testing import FakeEngine, FakeUnderlyingSocket
from scripted_core.views import FinishKind, FinishReason, ForwardMode
from scripted_core.wire.address import SessionAddress, create_address
from scripted_hook import BatchFacts, ScriptedTokenizerRecvProxy
from scripted_hook.ranks import ScriptBegins
from scripted_registry.ci import register_cpu_ci
from scripted_sglang.inbox import Belonging
from scripted_sglang.replica_link import End, Expect, Go, Hold, ReplicaLink
from scripted_sglang.replicas import Replicas

register_cpu_ci(est_time=1, stage="unit", runner_config="cpu")


@pytest.fixture
def address() -> Iterator[SessionAddress]:
    made = create_address()
    yield made
    made.remove()


@pytest.fixture
def driver(address: SessionAddress) -> Iterator[Replicas]:
    made = Replicas(address, size=2)
    yield made
    made.close()


@pytest.fixture
def link(address: SessionAddress) -> Iterator[ReplicaLink]:
    made = ReplicaLink(address, replica=1)
    yield made
    made.close()


def _next(link: ReplicaLink) -> object:
    assert link.socket.poll(5000), "the driver has said nothing"
    return link.receive()


def test_a_hold_is_back_when_the_replica_waits(driver: Replicas, link: ReplicaLink) -> None:
    engine = FakeEngine()
    spec = ReqSpec(rid="r1", input_ids=(1,) * 40, max_new_tokens=4)
    engine.submit(spec, ClientStream())
    engine.iterate()
    holding = threading.Thread(target=driver.hold)
    holding.start()
    assert isinstance(_next(link), Hold)
    assert holding.is_alive()
    link.tell_boundary(engine)
    holding.join(5)
    assert not holding.is_alive()
    assert driver.is_held
    assert driver.replica_of("r1") == 1
    view = driver.request("r1")
    assert view is not None
    assert (view.prompt_len, view.is_chunking) == (40, True)
    assert not driver.is_idle
    assert driver.request("r2") is None


def test_what_is_posted_goes_with_the_next_iteration_and_only_then(
    driver: Replicas, link: ReplicaLink
) -> None:
    posted = (ScriptBegins(1, True), Exhaust("kv", {"leave_pages": 3}), AbortAll())
    for op in posted:
        driver.post(op)
    driver.post(Flush(), only=2)
    assert link.receive() is None
    assert not driver.is_fully_idle
    driver.go()
    assert _next(link) == Go(posted)
    driver.go(last=True)
    assert _next(link) == Go((), last=True)
    assert not driver.is_held


def test_a_notice_alone_does_not_keep_it_from_idleness(driver: Replicas) -> None:
    driver.post(ScriptBegins(1, True))
    assert driver.is_fully_idle


def test_an_arrival_is_waited_for_and_counts_until_it_is_received(
    driver: Replicas, link: ReplicaLink
) -> None:
    wake_fd = os.eventfd(0)
    try:
        driver.expect("r1", replica=1)
        assert _next(link) == Expect("r1")
        link.tell_arrival("r1")
        assert driver.has_arrived("r1", replica=1, wake_fd=wake_fd, timeout_s=5.0)
        assert not driver.is_idle
        assert driver.replica_of("r1") == 1
        driver.go()
        assert driver.is_idle
        os.eventfd_write(wake_fd, 1)
        assert not driver.has_arrived("r2", replica=1, wake_fd=wake_fd, timeout_s=5.0)
    finally:
        os.close(wake_fd)


def test_a_request_that_is_faster_than_the_word_that_it_comes_arrives(
    driver: Replicas, link: ReplicaLink
) -> None:
    class TokenizedGenerateReqInput:
        rid = "r1"

    socket = FakeUnderlyingSocket()
    wake_fd = os.eventfd(0)
    belonging = Belonging()
    proxy = ScriptedTokenizerRecvProxy(underlying=socket, parks=belonging.is_foreign)
    proxy.hold()
    try:
        request = TokenizedGenerateReqInput()
        socket.put(request)
        assert link.next_go(proxy, belonging) is None
        assert proxy.parked == 1
        driver.expect("r1", replica=1)
        assert link.socket.poll(5000)
        assert link.next_go(proxy, belonging) is None
        assert driver.has_arrived("r1", replica=1, wake_fd=wake_fd, timeout_s=5.0)
        assert proxy.buffered == (request,)
    finally:
        os.close(wake_fd)
        socket.close()


def test_what_an_iteration_brought_is_told_once_and_only_while_held(
    driver: Replicas, link: ReplicaLink
) -> None:
    engine = FakeEngine()
    facts = BatchFacts(ForwardMode.EXTEND, ("r1",), ("r1",))
    end = End("r1", FinishReason(FinishKind.LENGTH), (5, 6))
    link.on_batch(facts)  # somebody else's: nobody holds the engine
    link.is_held = True
    for _ in range(2):
        link.tell_boundary(engine)
        boundary = driver.await_boundaries()[1]
        assert (boundary.batches, boundary.ends, boundary.flushes) == ((), (), ())
        link.on_batch(facts)
        link.on_end(end)
        link.on_flush(False)
        link.tell_boundary(engine)
        boundary = driver.await_boundaries()[1]
        assert (boundary.batches, boundary.ends) == ((facts,), (end,))
        assert boundary.flushes == (False,)
    assert driver.is_fully_idle
