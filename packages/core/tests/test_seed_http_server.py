"""``ScriptedHttpServer`` with a fake wire and a fake process: which reply belongs to which script."""

from __future__ import annotations

import os
from typing import ClassVar

import pytest
from scripted_core.errors import EngineDied, EngineDirty, ReplyTimeout, ScriptFailed, ScriptStalled
from scripted_core.sessions import ScriptedHttpServer, ServerLaunch, launched
from scripted_core.sessions.processes import ProcessWatch
from scripted_core.testing import FakePairChannel
from scripted_core.wire import messages
from scripted_core.wire.messages import (
    PROTOCOL_VERSION,
    HookReady,
    OutOfBandError,
    RunScript,
    ScriptSucceeded,
    Shutdown,
)
from scripted_registry import EngineConfig, EngineMode, EngineSpec, hookimpl
from scripted_registry.ci import register_cpu_ci

register_cpu_ci(est_time=1, stage="unit", runner_config="cpu")

SCRIPTED_API = 1


def _sample_script(t, *args):
    yield


class _FakeProcess:
    """What the wrapper asks of an engine's processes; this test's own pid stands for them."""

    made: ClassVar[list[_FakeProcess]] = []

    def __init__(self, **_):
        self.made.append(self)
        self.pid = os.getpid()
        self.watch = ProcessWatch()
        self.watch.add(self.pid, "main")
        self.stops = 0

    def refresh(self):
        pass

    def note_leftovers(self):
        pass

    def all_stacks(self):
        return "stacks of all"

    def log_text(self):
        return "the log"

    def log_tail(self):
        return "the log's tail"

    def describe_end(self, pid):
        return "ended"

    def stop(self):
        self.stops += 1


class _Plugin:
    def __init__(self, channel):
        self.channel = channel

    @hookimpl
    def scripted_register_engines(self):
        return [EngineSpec(name="fake", summary="a fake", modes=(EngineMode.SERVER,))]

    @hookimpl
    def scripted_make_engine(self, config):
        return ServerLaunch(argv=("never-run",), host="127.0.0.1", port=1)

    @hookimpl
    def scripted_make_transport(self, config):
        return lambda address: self.channel


@pytest.fixture
def engine_side(plugins, monkeypatch):
    """The engine's end of the wire. What is sent before it is asked for waits there as a reply."""
    monkeypatch.setattr(_FakeProcess, "made", [])
    test_side, engine_side = FakePairChannel.pair()
    plugins.register(_Plugin(test_side), name="fake-server")
    monkeypatch.setattr(launched, "ServerProcess", _FakeProcess)
    monkeypatch.setattr(launched, "await_http", lambda *args, **kwargs: None)
    engine_side.send(
        HookReady(
            protocol_version=PROTOCOL_VERSION,
            engine="fake",
            engine_version="1",
            capabilities=(),
            pids={},
            hooks_fired=("step",),
        )
    )
    yield engine_side
    engine_side.close()


@pytest.fixture
def server(engine_side):
    config = EngineConfig(engine="fake", kwargs={}, mode=EngineMode.SERVER, seed=5)
    with ScriptedHttpServer.from_config(config, stall_timeout_s=20.0) as one:
        yield one


def _failed(request_id, message):
    return messages.ScriptFailed(
        request_id=request_id,
        outcome="failed",
        error_type="AssertionError",
        message=message,
        traceback="remote frames",
        last_state="step 3",
    )


def test_a_reply_ends_the_script_that_it_answers(server, engine_side):
    engine_side.send(ScriptSucceeded(1, 0, "digest"))
    server.execute_script(_sample_script, args=(7,))
    request = engine_side.receive()
    assert isinstance(request, RunScript)
    assert request.request_id == 1
    assert request.script.qualname == "_sample_script"
    assert (request.args, request.kwargs, request.seed) == ([7], {}, 5)
    assert server.event_digest() == "digest"


@pytest.mark.parametrize("stale", [ScriptSucceeded(0, 4, "stale"), _failed(0, "stale")])
def test_a_stale_reply_is_passed_over_whatever_it_says(server, engine_side, stale, capsys):
    engine_side.send(stale)
    engine_side.send(_failed(1, "the fresh one"))
    with pytest.raises(ScriptFailed, match="the fresh one"):
        server.execute_script(_sample_script)
    engine_side.send(stale)
    engine_side.send(ScriptSucceeded(2, 0, "second"))
    server.execute_script(_sample_script)
    assert server.event_digest() == "second"


def test_a_failure_has_the_remote_traceback_and_is_an_assertion_error(server, engine_side):
    engine_side.send(_failed(1, "expected 3"))
    with pytest.raises(AssertionError, match="expected 3") as caught:
        server.execute_script(_sample_script)
    assert "remote frames" in str(caught.value)
    assert "step 3" in str(caught.value)
    assert server.dirty is None


def test_only_stale_replies_are_a_timeout_and_a_late_one_helps_nobody(server, engine_side, capsys):
    engine_side.send(ScriptSucceeded(0, 0))
    with pytest.raises(ReplyTimeout, match="stacks of all"):
        server.execute_script(_sample_script, timeout_s=0.05)
    engine_side.send(ScriptSucceeded(1, 0, "late"))
    engine_side.send(ScriptSucceeded(2, 0, "later"))
    with pytest.raises(EngineDirty, match="ReplyTimeout"):
        server.execute_script(_sample_script)
    assert server.event_digest() == ""


def test_without_progress_it_is_a_stall_long_before_a_timeout(engine_side):
    config = EngineConfig(engine="fake", kwargs={}, mode=EngineMode.SERVER)
    with ScriptedHttpServer.from_config(config, stall_timeout_s=0.05) as server:
        with pytest.raises(ScriptStalled, match="stacks of all"):
            server.execute_script(_sample_script, timeout_s=60)
        assert server.dirty is not None


def test_a_report_out_of_band_ends_the_wait_with_its_cause(server, engine_side):
    engine_side.send(
        OutOfBandError(
            rank="1", pid=1, error_type="ValueError", message="in the loop", traceback="tb"
        )
    )
    with pytest.raises(EngineDied, match=r"rank 1 .* ValueError: in the loop"):
        server.execute_script(_sample_script)
    with pytest.raises(EngineDirty):
        server.execute_script(_sample_script)


def test_shutdown_says_so_once_and_ends_the_processes_once(server, engine_side):
    server.shutdown()
    server.shutdown()
    assert _FakeProcess.made[-1].stops == 1
    assert isinstance(engine_side.receive(), Shutdown)
    assert engine_side.receive() is None
    with pytest.raises(EngineDirty, match="shut down"):
        server.execute_script(_sample_script)


def test_a_dirty_engine_is_told_nothing_more(server, engine_side):
    with pytest.raises(ReplyTimeout):
        server.execute_script(_sample_script, timeout_s=0.03)
    assert isinstance(engine_side.receive(), RunScript)
    server.shutdown()
    assert engine_side.receive() is None
