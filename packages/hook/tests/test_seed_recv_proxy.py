"""``ScriptedTokenizerRecvProxy`` with a fake socket: nothing is lost, repeated or overtaken."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import zmq
from hypothesis import given, settings
from hypothesis import strategies as st
from scripted_core.errors import ReplyTimeout
from scripted_core.testing import FakeUnderlyingSocket
from scripted_hook import ScriptedTokenizerRecvProxy
from scripted_registry.ci import register_cpu_ci

register_cpu_ci(est_time=3, stage="unit", runner_config="cpu")


@dataclass(frozen=True)
class _StartReq:
    rid: str


@dataclass(frozen=True)
class _ControlMsg:
    name: str


@pytest.fixture
def socket():
    fake = FakeUnderlyingSocket()
    yield fake
    fake.close()


@pytest.fixture
def proxy(socket):
    return ScriptedTokenizerRecvProxy(underlying=socket)


def _drain(proxy):
    found = []
    while True:
        try:
            found.append(proxy.recv_pyobj(zmq.NOBLOCK))
        except zmq.Again:
            return found


def _is(rid):
    return lambda message: message == _StartReq(rid)


def _wait(proxy, rid, timeout_s=1.0):
    return proxy.wait_until_arrived(_is(rid), timeout_s=timeout_s, description=rid)


def test_a_message_that_comes_after_its_wait_expired_is_not_lost(proxy, socket):
    with pytest.raises(ReplyTimeout):
        _wait(proxy, "late", timeout_s=0)
    socket.put(_ControlMsg("pause"))
    socket.put(_StartReq("late"))
    assert _wait(proxy, "late", timeout_s=0) == _StartReq("late")
    assert _drain(proxy) == [_ControlMsg("pause"), _StartReq("late")]


def test_a_wait_is_not_satisfied_by_what_was_drained_before_it(proxy, socket):
    socket.put(_StartReq("x"))
    assert _drain(proxy) == [_StartReq("x")]
    with pytest.raises(ReplyTimeout, match="x did not arrive"):
        _wait(proxy, "x", timeout_s=0)


def test_two_waits_in_the_other_order_change_no_order(proxy, socket):
    for rid in ("a", "b", "c"):
        socket.put(_StartReq(rid))
    for rid in ("c", "a", "b"):
        assert _wait(proxy, rid) == _StartReq(rid)
    assert _drain(proxy) == [_StartReq(rid) for rid in ("a", "b", "c")]


def test_requests_and_control_are_in_the_order_of_the_calls(proxy, socket):
    socket.put(_StartReq("a"))
    _wait(proxy, "a")
    proxy.inject(_ControlMsg("pause"))
    socket.put(_StartReq("b"))
    _wait(proxy, "b")
    proxy.inject(_ControlMsg("continue"))
    assert [type(message) for message in _drain(proxy)] == [
        _StartReq,
        _ControlMsg,
        _StartReq,
        _ControlMsg,
    ]


def test_a_blocking_receive_takes_what_is_buffered_without_waiting(proxy, socket):
    socket.put(_StartReq("a"))
    _wait(proxy, "a")
    assert proxy.recv_pyobj() == _StartReq("a")
    with pytest.raises(zmq.Again):
        proxy.recv_pyobj(zmq.NOBLOCK)


def test_a_predicate_that_fails_loses_nothing(proxy, socket):
    socket.put(_StartReq("a"))
    socket.put(_StartReq("b"))

    def broken(message):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        proxy.wait_until_arrived(broken, timeout_s=1, description="anything")
    assert _drain(proxy) == [_StartReq("a"), _StartReq("b")]


class _BrokenAt:
    """A socket whose messages arrive until one of them cannot be decoded."""

    def __init__(self, *messages):
        self._messages = list(messages)

    def recv_pyobj(self, flags=0):
        if not self._messages:
            raise zmq.Again
        message = self._messages.pop(0)
        if isinstance(message, Exception):
            raise message
        return message


def test_a_message_that_cannot_be_decoded_does_not_take_those_before_it_along():
    proxy = ScriptedTokenizerRecvProxy(
        underlying=_BrokenAt(_StartReq("a"), ValueError("garbage"), _StartReq("b")), poll_on=0
    )
    with pytest.raises(ValueError, match="garbage"):
        proxy.inject(_ControlMsg("pause"))
    assert _drain(proxy) == [_StartReq("a"), _StartReq("b")]


_operations = st.lists(
    st.sampled_from(
        ["request", "request", "control", "inject", "drain", "look", "hold", "release"]
    ),
    max_size=30,
)


@settings(max_examples=300)
@given(_operations)
def test_whatever_happens_each_message_comes_out_once(operations):
    socket = FakeUnderlyingSocket()
    proxy = ScriptedTokenizerRecvProxy(
        underlying=socket, parks=lambda message: isinstance(message, _StartReq)
    )
    sent: list[object] = []
    received: list[object] = []
    for number, what in enumerate(operations):
        match what:
            case "request" | "control":
                sent.append((_StartReq if what == "request" else _ControlMsg)(f"{number}"))
                socket.put(sent[-1])
            case "inject":
                sent.append(_ControlMsg(f"ours-{number}"))
                proxy.inject(sent[-1])
            case "drain":
                received += _drain(proxy)
            case "look":
                with pytest.raises(ReplyTimeout):
                    _wait(proxy, "never", timeout_s=0)
            case "hold":
                proxy.hold()
            case "release":
                proxy.release()
    proxy.release()
    received += _drain(proxy)
    socket.close()
    assert sorted(map(repr, received)) == sorted(map(repr, sent))
    for kind in (_StartReq, _ControlMsg):
        assert [m for m in received if isinstance(m, kind)] == [
            m for m in sent if isinstance(m, kind)
        ]
