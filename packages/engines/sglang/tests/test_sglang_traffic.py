"""Counting what two servers send each other, and keeping the ends of transfers back."""

from __future__ import annotations

import queue
import threading

import pytest
from scripted_registry.ci import register_cpu_ci
from scripted_sglang import traffic as traffic_module
from scripted_sglang.traffic import Traffic
from structlog.testing import capture_logs

register_cpu_ci(est_time=1, stage="unit", runner_config="cpu")
register_cpu_ci(est_time=1, stage="single-sglang", runner_config="cpu")

JOIN_S = 20.0


class Receiver:
    """A decode server's end of one transfer, from two ranks."""

    bootstrap_infos = ("rank 0", "rank 1")


@pytest.fixture
def traffic() -> Traffic:
    return Traffic()


@pytest.mark.parametrize("gone_out", [True, False])
def test_a_message_counts_when_it_has_gone_out(traffic, gone_out):
    traffic.after_send(None, "manager", "tcp://127.0.0.1:1", [b"x"])
    traffic.after_bootstrap_message(gone_out, "receiver", message=[b"x"])
    assert traffic.sent() == 1 + gone_out


def test_a_notice_of_an_abort_is_a_message_to_each_rank(traffic):
    traffic.after_abort_notification(None, Receiver(), force_arm=False)
    assert traffic.sent() == 2


def test_a_chunk_is_sent_before_the_count_is_told(traffic):
    chunks: queue.Queue[str] = queue.Queue()
    may_send = threading.Event()
    seen: list[int] = []

    def worker() -> None:
        for _ in range(2):
            if traffic.get_chunk(lambda q: q.get(), chunks) == "stop":
                return
            may_send.wait(JOIN_S)
            traffic.after_send(None)

    traffic.put_chunk(lambda q, item: q.put(item), chunks, "chunk")
    sender = threading.Thread(target=worker)
    sender.start()
    asker = threading.Thread(target=lambda: seen.append(traffic.sent()))
    asker.start()
    asker.join(0.05)
    assert asker.is_alive()
    assert not seen
    may_send.set()
    asker.join(JOIN_S)
    assert seen == [1]
    traffic.put_chunk(lambda q, item: q.put(item), chunks, "stop")
    sender.join(JOIN_S)
    assert not sender.is_alive()


def test_a_message_is_read_once_the_next_is_asked_for(traffic, monkeypatch):
    monkeypatch.setattr(traffic_module, "_GIVEN_UP_AFTER_S", 10 * JOIN_S)
    arrived: queue.Queue[bytes | None] = queue.Queue()
    receive = traffic.counted_receive(lambda: arrived.get)
    for message in (b"first", None, b"second"):
        arrived.put(message)
    waiting = threading.Thread(target=lambda: traffic.await_read(2), daemon=True)
    waiting.start()
    assert [receive(), receive(), receive()] == [b"first", None, b"second"]
    waiting.join(0.05)
    assert waiting.is_alive()  # the second is in hand, and nobody knows whether it was seen to
    arrived.put(b"third")
    receive()
    waiting.join(JOIN_S)
    assert not waiting.is_alive()


def test_what_never_comes_is_not_waited_for_for_ever(traffic, monkeypatch):
    monkeypatch.setattr(traffic_module, "_GIVEN_UP_AFTER_S", 0.01)
    with capture_logs() as logs:
        traffic.await_read(1)
        traffic.put_chunk(lambda q, item: None, None, "chunk")
        assert traffic.sent() == 0
    assert [entry["event"] for entry in logs] == [
        "a message of the other server has not come",
        "KV is still being sent",
    ]


def test_ends_are_kept_while_held_and_told_in_their_order(traffic):
    told: list[str] = []

    def original(manager: object, *, room: str) -> str:
        told.append(room)
        return "told"

    assert traffic.prefill_status(original, "manager", room="a") == "told"
    traffic.hold()
    traffic.hold()  # holding twice is holding
    assert traffic.is_held
    for room in ("b", "c"):
        assert traffic.prefill_status(original, "manager", room=room) is None
    assert told == ["a"]
    traffic.resume()
    assert told == ["a", "b", "c"]
    assert not traffic.is_held
    traffic.resume()
    assert told == ["a", "b", "c"]
