from __future__ import annotations

import os
import threading
import time
from dataclasses import dataclass

import pytest
import zmq
from scripted_core.errors import ReplyTimeout
from scripted_core.testing import FakeUnderlyingSocket
from scripted_hook import ScriptedTokenizerRecvProxy
from scripted_registry.ci import register_cpu_ci

register_cpu_ci(est_time=1, stage="unit", runner_config="cpu")


@dataclass
class StartReq:
    rid: str


@dataclass
class ControlMsg:
    name: str


@pytest.fixture
def socket():
    fake = FakeUnderlyingSocket()
    yield fake
    fake.close()


@pytest.fixture
def proxy(socket):
    return ScriptedTokenizerRecvProxy(underlying=socket)


def drain(proxy):
    found = []
    while True:
        try:
            found.append(proxy.recv_pyobj(zmq.NOBLOCK))
        except zmq.Again:
            return found


def is_rid(rid):
    return lambda message: isinstance(message, StartReq) and message.rid == rid


def test_an_empty_inbox_is_again(proxy):
    with pytest.raises(zmq.Again):
        proxy.recv_pyobj(zmq.NOBLOCK)


def test_messages_pass_in_order(proxy, socket):
    for i in range(5):
        socket.put(i)
    assert drain(proxy) == [0, 1, 2, 3, 4]


def test_a_blocking_receive_waits(proxy, socket):
    thread = threading.Timer(0.02, socket.put, ["late"])
    thread.start()
    assert proxy.recv_pyobj() == "late"
    thread.join()


def test_what_was_read_ahead_comes_first_and_in_order(proxy, socket):
    for message in (ControlMsg("a"), StartReq("x"), ControlMsg("b")):
        socket.put(message)
    assert proxy.wait_until_arrived(is_rid("x"), timeout_s=1, description="x") == StartReq("x")
    assert len(proxy) == 3
    socket.put(ControlMsg("c"))
    assert drain(proxy) == [ControlMsg("a"), StartReq("x"), ControlMsg("b"), ControlMsg("c")]


def test_a_wait_does_not_consume(proxy, socket):
    socket.put(StartReq("x"))
    for _ in range(2):
        proxy.wait_until_arrived(is_rid("x"), timeout_s=1, description="x")
    assert drain(proxy) == [StartReq("x")]


def test_a_wait_ends_when_the_message_arrives_later(proxy, socket):
    thread = threading.Timer(0.02, socket.put, [StartReq("x")])
    thread.start()
    begun = time.monotonic()
    assert proxy.wait_until_arrived(is_rid("x"), timeout_s=5, description="x") is not None
    assert time.monotonic() - begun < 2
    thread.join()


def test_a_wait_passes_over_others_and_times_out_by_name(proxy, socket):
    socket.put(StartReq("other"))
    with pytest.raises(ReplyTimeout, match=r"request x .*0\.05 s") as caught:
        proxy.wait_until_arrived(is_rid("x"), timeout_s=0.05, description="request x")
    assert caught.value.hint
    assert drain(proxy) == [StartReq("other")]


def test_a_wait_without_time_still_looks_at_what_is_there(proxy, socket):
    socket.put(StartReq("x"))
    assert proxy.wait_until_arrived(is_rid("x"), timeout_s=0, description="x") == StartReq("x")


def test_an_injected_message_is_behind_all_that_has_arrived(proxy, socket):
    socket.put("first")
    proxy.inject("ours")
    socket.put("last")
    assert drain(proxy) == ["first", "ours", "last"]


def test_foreign_messages_are_parked_while_held_and_come_after(socket):
    proxy = ScriptedTokenizerRecvProxy(
        underlying=socket, parks=lambda message: isinstance(message, StartReq)
    )
    socket.put(StartReq("before"))
    assert drain(proxy) == [StartReq("before")]
    proxy.hold()
    for message in (StartReq("one"), ControlMsg("a"), StartReq("two")):
        socket.put(message)
    assert drain(proxy) == [ControlMsg("a")]
    assert proxy.parked == 2
    proxy.inject(ControlMsg("b"))
    socket.put(StartReq("three"))
    assert drain(proxy) == [ControlMsg("b")]
    proxy.release()
    assert proxy.parked == 0
    socket.put(StartReq("four"))
    assert [message.rid for message in drain(proxy)] == ["one", "two", "three", "four"]


def test_what_is_known_to_be_ours_after_it_was_parked_comes_out_in_order(socket):
    ours = set()
    proxy = ScriptedTokenizerRecvProxy(underlying=socket, parks=lambda m: m.rid not in ours)
    proxy.hold()
    for rid in ("a", "b", "c"):
        socket.put(StartReq(rid))
    assert drain(proxy) == []
    ours |= {"a", "c"}
    assert proxy.reconsider() == [StartReq("a"), StartReq("c")]
    assert proxy.reconsider() == []
    assert drain(proxy) == [StartReq("a"), StartReq("c")]
    proxy.release()
    assert drain(proxy) == [StartReq("b")]


def test_a_parked_message_does_not_end_a_wait(socket):
    proxy = ScriptedTokenizerRecvProxy(underlying=socket, parks=lambda message: True)
    proxy.hold()
    socket.put(StartReq("x"))
    with pytest.raises(ReplyTimeout):
        proxy.wait_until_arrived(is_rid("x"), timeout_s=0.03, description="x")
    assert proxy.parked == 1


def test_a_wake_fd_lets_a_wait_be_cancelled(proxy):
    fd = os.eventfd(0, os.EFD_NONBLOCK)
    refused = threading.Event()

    def refuse():
        refused.set()
        os.eventfd_write(fd, 1)

    thread = threading.Timer(0.02, refuse)
    thread.start()
    try:
        begun = time.monotonic()
        found = proxy.wait_until_arrived(
            is_rid("x"), timeout_s=5, description="x", wake_fd=fd, cancelled=refused.is_set
        )
        assert found is None
        assert time.monotonic() - begun < 2
    finally:
        thread.join()
        os.close(fd)


def test_an_arrival_wins_over_a_cancellation_at_the_same_time(proxy, socket):
    socket.put(StartReq("x"))
    found = proxy.wait_until_arrived(
        is_rid("x"), timeout_s=1, description="x", cancelled=lambda: True
    )
    assert found == StartReq("x")


def test_poll_on_is_what_is_waited_for(socket):
    class Decoder:
        """Decodes what comes out of a socket and cannot be polled itself."""

        def recv_pyobj(self, flags=0):
            return StartReq(socket.recv_pyobj(flags))

    proxy = ScriptedTokenizerRecvProxy(underlying=Decoder(), poll_on=socket)
    thread = threading.Timer(0.02, socket.put, ["x"])
    thread.start()
    assert proxy.wait_until_arrived(is_rid("x"), timeout_s=5, description="x") == StartReq("x")
    thread.join()


def test_merge_puts_what_the_engine_pulled_behind_what_is_buffered(socket):
    proxy = ScriptedTokenizerRecvProxy(
        underlying=socket, parks=lambda message: isinstance(message, StartReq)
    )
    proxy.inject("ours")
    proxy.hold()
    assert proxy.merge(["theirs", StartReq("foreign")]) == ["ours", "theirs"]
    assert proxy.merge([]) == []
    proxy.release()
    assert proxy.merge(["later"]) == [StartReq("foreign"), "later"]
