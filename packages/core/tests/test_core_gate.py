"""The gate's rules, on a wire and clients that the test moves by hand."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import pytest
from scripted_core.gate.relay import Gate
from scripted_core.wire.attach_messages import (
    Attach,
    Attached,
    AttachRefused,
    Detach,
    EngineEnded,
    Probe,
    Progress,
    Stacks,
    StacksWanted,
)
from scripted_core.wire.messages import (
    PROTOCOL_VERSION,
    HookReady,
    OutOfBandError,
    RunScript,
    ScriptRef,
    ScriptSucceeded,
    StepsEnded,
)
from scripted_registry.ci import register_cpu_ci

register_cpu_ci(est_time=1, stage="unit", runner_config="cpu")

READY = HookReady(PROTOCOL_VERSION, "fake", "1", (), {"scheduler": 7}, ("step",))
SCRIPT = ScriptRef("/a.py", "a", "a_script", "hash")


def run(request_id: int) -> RunScript:
    return RunScript(request_id, SCRIPT, [], {})


class Wire:
    """The engine's side and its watch: what it says is scripted, what it hears is kept."""

    def __init__(self) -> None:
        self.heard: list[Any] = []
        self.says: list[Any] = []
        self.abandoned: list[int] = []
        self.end: str | None = None
        self.ticks = (0, 0, 0)
        self.watched: dict[str, int] = {}
        self.fds = ()

    def send(self, message: Any) -> None:
        self.heard.append(message)

    def receive(self) -> Any:
        return self.says.pop(0) if self.says else None

    def pollables(self) -> tuple[Any, ...]:
        return ()

    def refresh(self, pids: Mapping[str, int] | None = None) -> None:
        self.watched |= pids or {}

    def ended(self) -> str | None:
        return self.end

    def progress(self) -> tuple[int, int, int]:
        return self.ticks

    def abandon(self, request_id: int) -> None:
        self.abandoned.append(request_id)

    def stacks(self) -> str:
        return "the stacks"


class Clients:
    """Plays rounds: before each, what clients do in it; after the last the engine ends."""

    def __init__(self, wire: Wire, rounds: list[list[Any]]) -> None:
        self._wire = wire
        self._rounds = rounds
        self._inbox: list[Any] = []
        self.gone: set[bytes] = set()
        self.told: list[tuple[bytes, Any]] = []
        # Always readable: no round waits.
        self._fd = os.eventfd(1)

    def send(self, client: bytes, message: Any) -> bool:
        if client in self.gone:
            return False
        self.told.append((client, message))
        return True

    def receive(self) -> Any:
        return self._inbox.pop(0) if self._inbox else None

    def somebody_left(self) -> bool:
        return bool(self.gone)

    def pollables(self) -> tuple[Any, ...]:
        if not self._rounds:
            self._wire.end = "scheduler (pid 7) ended"
            return (self._fd,)
        for one in self._rounds.pop(0):
            if callable(one):
                one()
            else:
                self._inbox.append(one)
        return (self._fd,)

    def told_to(self, client: bytes) -> list[Any]:
        return [message for who, message in self.told if who == client]


def play(*rounds: list[Any], wire: Wire | None = None) -> tuple[Wire, Clients]:
    wire = wire or Wire()
    clients = Clients(wire, list(rounds))
    for one in rounds:
        one[:] = [step(wire, clients) if _is_step(step) else step for step in one]
    assert Gate(engine=wire, watch=wire, clients=clients).serve() == "scheduler (pid 7) ended"
    return wire, clients


def _is_step(one: Any) -> bool:
    return getattr(one, "is_step", False)


def engine_says(message: Any) -> Any:
    def step(wire: Wire, clients: Clients) -> Any:
        return lambda: wire.says.append(message)

    step.is_step = True  # type: ignore[attr-defined]
    return step


def leaves(client: bytes) -> Any:
    def step(wire: Wire, clients: Clients) -> Any:
        return lambda: clients.gone.add(client)

    step.is_step = True  # type: ignore[attr-defined]
    return step


def asks(client: bytes, *, version: int = PROTOCOL_VERSION) -> Any:
    return (client, Attach(version, client.decode()))


def test_who_comes_early_waits_for_the_engine_and_hears_of_its_end() -> None:
    wire, clients = play([asks(b"ann")], [engine_says(READY)])
    (attached, ended) = clients.told_to(b"ann")
    assert isinstance(attached, Attached)
    assert attached.ready == READY
    assert ended == EngineEnded("scheduler (pid 7) ended")
    assert wire.watched == {"scheduler": 7}


def test_numbers_of_runs_are_the_gates_own_on_the_engines_side() -> None:
    wire, clients = play(
        [engine_says(READY), asks(b"ann")],
        [(b"ann", run(5))],
        [engine_says(StepsEnded(1, ())), engine_says(ScriptSucceeded(1, 3))],
        [(b"ann", run(5))],
        [engine_says(ScriptSucceeded(2, 4))],
    )
    assert [message.request_id for message in wire.heard] == [1, 2]
    said = [m for m in clients.told_to(b"ann") if isinstance(m, (StepsEnded, ScriptSucceeded))]
    assert said == [StepsEnded(5, ()), ScriptSucceeded(5, 3), ScriptSucceeded(5, 4)]


def test_a_second_client_is_refused_by_name_and_may_not_run_anything() -> None:
    wire, clients = play(
        [engine_says(READY), asks(b"ann")],
        [asks(b"bob"), (b"bob", run(1)), (b"bob", Detach()), (b"bob", StacksWanted())],
    )
    (refused,) = clients.told_to(b"bob")
    assert isinstance(refused, AttachRefused)
    assert (refused.code, refused.later) == ("engine-busy", True)
    assert "another test client is attached: ann, since" in refused.message
    assert wire.heard == []
    assert clients.told_to(b"ann")[-1] == EngineEnded("scheduler (pid 7) ended")


def test_the_script_of_a_client_that_is_gone_is_given_up_before_the_next_comes_in() -> None:
    wire, clients = play(
        [engine_says(READY), asks(b"ann")],
        [(b"ann", run(1))],
        [leaves(b"ann"), asks(b"bob")],
        [engine_says(ScriptSucceeded(1, 3))],
        [asks(b"bob")],
    )
    assert wire.abandoned == [1]
    refused, attached, *_ = (m for m in clients.told_to(b"bob") if not isinstance(m, Probe))
    assert "the script a_script of ann, which has gone, still holds the engine" in refused.message
    assert isinstance(attached, Attached)
    assert not any(isinstance(message, ScriptSucceeded) for _, message in clients.told)


def test_detaching_in_the_middle_gives_the_script_up_too() -> None:
    wire, _ = play([engine_says(READY), asks(b"ann")], [(b"ann", run(1)), (b"ann", Detach())])
    assert wire.abandoned == [1]


def test_progress_and_stacks_are_told_while_a_script_runs() -> None:
    wire = Wire()

    def moves() -> None:
        wire.ticks = (4, 1, 3)

    _, clients = play(
        [engine_says(READY), asks(b"ann")],
        [(b"ann", run(1)), moves],
        [(b"ann", StacksWanted())],
        wire=wire,
    )
    told = clients.told_to(b"ann")
    assert told.count(Progress(4, 3)) == 1
    assert Stacks("the stacks") in told
    assert Probe() not in told


def test_another_protocol_and_a_broken_engine_are_refused() -> None:
    broken = OutOfBandError("scheduler", 7, "OSError", "no memory", "Traceback")
    _, clients = play(
        [engine_says(READY), asks(b"ann", version=99)],
        [engine_says(broken)],
        [asks(b"bob")],
    )
    (mismatch,) = clients.told_to(b"ann")
    assert (mismatch.code, mismatch.later) == ("protocol-mismatch", False)
    (refused,) = clients.told_to(b"bob")
    assert refused.code == "engine-died"
    assert "OSError: no memory" in refused.message


@pytest.mark.parametrize("who", [b"ann", b"bob"])
def test_a_report_of_a_rank_goes_to_whom_it_concerns(who: bytes) -> None:
    broken = OutOfBandError("scheduler", 7, "OSError", "no memory", "Traceback")
    _, clients = play([engine_says(READY), asks(b"ann")], [asks(b"bob")], [engine_says(broken)])
    assert (broken in clients.told_to(who)) is (who == b"ann")
