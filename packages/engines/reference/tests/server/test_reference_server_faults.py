"""Whatever breaks in a session's server is named at once, and nothing of it stays running."""

from __future__ import annotations

import dataclasses
import json
import os
import select
import signal
import time

import pytest
from scripted_core.errors import EngineDied, EngineStartError, ScriptStalled
from scripted_core.sessions import server_process
from scripted_core.sessions.http_server import ScriptedHttpServer
from scripted_core.sessions.processes import group_members, still_running
from scripted_reference.server.launch import server_launch
from scripted_registry.ci import register_cpu_ci

register_cpu_ci(est_time=40, stage="reference", runner_config="cpu")

_AT_ONCE_S = 15.0
"""Far below the start timeout of the engine (120 s), and above what a busy machine needs."""
_KWARGS = {"chunked_prefill_size": 64, "max_total_tokens": 2048}
_START_TIMEOUT_S = 1.0


@pytest.fixture(autouse=True)
def nothing_is_left(tmp_path, monkeypatch):
    """No process of any engine that the test started, and no folder."""
    started = []
    real = server_process.ServerProcess.__init__

    def noted(self, **kwargs):
        real(self, **kwargs)
        started.append(self.pid)

    monkeypatch.setattr(server_process.ServerProcess, "__init__", noted)
    folder = tmp_path / "t"
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    monkeypatch.setattr("tempfile.tempdir", None)
    yield
    monkeypatch.setattr("tempfile.tempdir", None)
    assert started
    for group in started:
        assert still_running(group_members(group)) == {}
    assert list(folder.iterdir()) == []


@pytest.fixture
def server():
    with ScriptedHttpServer.start(stall_timeout_s=1.0, **_KWARGS) as started:
        yield started


def _pids(server):
    return {role: pid for pid, role in server.pids.items()}


def _nothing(t):
    yield


# -- start


_SABOTAGE = """
import os, sys
if {module!r} in sys.orig_argv:
    os.kill(os.getpid(), {number})
"""


@pytest.mark.parametrize("role", ["front", "scheduler"])
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_a_process_that_is_killed_or_stopped_at_its_start(role, number, tmp_path, monkeypatch):
    module = "scripted_reference.server" + (".scheduler_process" if role == "scheduler" else "")
    (tmp_path / "sitecustomize.py").write_text(_SABOTAGE.format(module=module, number=int(number)))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    make = server_launch

    def impatient(config):
        launch = make(config)
        if number == signal.SIGKILL:
            return launch
        return dataclasses.replace(launch, start_timeout_s=_START_TIMEOUT_S)

    monkeypatch.setattr("scripted_reference.server.launch.server_launch", impatient)
    begun = time.monotonic()
    with pytest.raises(EngineStartError) as caught:
        ScriptedHttpServer.start(**_KWARGS)
    took_s = time.monotonic() - begun
    if number == signal.SIGKILL:
        assert "was killed by SIGKILL" in str(caught.value)
        assert took_s < _AT_ONCE_S
    else:
        assert "was not ready within 1 s" in str(caught.value)
        assert took_s < _START_TIMEOUT_S + _AT_ONCE_S


def test_a_port_that_another_server_has(server, monkeypatch):
    port = int(server.base_url.rpartition(":")[2])
    with pytest.raises(EngineStartError, match=f"port {port} on 127.0.0.1 is taken"):
        ScriptedHttpServer.start(port=port, **_KWARGS)
    # Taken by somebody between the choice and the start.
    monkeypatch.setattr("scripted_reference.server.launch._port", lambda host, given: port)
    begun = time.monotonic()
    with pytest.raises(EngineStartError, match=f"cannot serve on 127.0.0.1 port {port}"):
        ScriptedHttpServer.start(**_KWARGS)
    assert time.monotonic() - begun < _AT_ONCE_S
    server.execute_script(_nothing)
    begun = time.monotonic()
    server.shutdown()
    assert time.monotonic() - begun < 1.0, "an orderly end needs no grace"


def test_a_model_that_cannot_be_loaded_is_named_at_once(tmp_path):
    folder = tmp_path / "broken-model"
    folder.mkdir()
    content = {"architectures": ["Nobody"], "model_type": "nobody"}
    (folder / "config.json").write_text(json.dumps(content))
    begun = time.monotonic()
    with pytest.raises(EngineStartError, match="broken-model") as caught:
        ScriptedHttpServer.start(model_path=str(folder), **_KWARGS)
    assert "Traceback" not in str(caught.value)
    assert time.monotonic() - begun < _AT_ONCE_S


# -- idle, and a script's way in and out


@pytest.mark.parametrize("role", ["main", "scheduler"])
def test_a_process_that_dies_between_two_scripts(server, role):
    server.execute_script(_nothing)
    pid = _pids(server)[role]
    end = os.pidfd_open(pid)
    os.kill(pid, signal.SIGKILL)
    assert select.select([end], [], [], 5)[0]
    os.close(end)
    begun = time.monotonic()
    with pytest.raises(EngineDied, match=rf"{role} \(pid {pid}\)"):
        server.execute_script(_nothing)
    assert time.monotonic() - begun < 1.0


def _script_that_waits_for_a_stopped_front(t, pid):
    yield
    os.kill(pid, signal.SIGSTOP)
    t.start_req(prompt_len=10)
    yield


def test_a_front_that_is_stopped_in_mid_script_is_a_stall_that_says_so(server):
    pid = server.main_pid
    with pytest.raises(ScriptStalled, match=f"main, process {pid}: T \\(stopped\\)") as caught:
        server.execute_script(_script_that_waits_for_a_stopped_front, args=(pid,))
    assert "_script_that_waits_for_a_stopped_front" in str(caught.value), "the scheduler's stacks"


def _script_that_sets_a_trap_for_the_reset(t):
    t.start_req(prompt_len=100, max_new_tokens=100, ignore_eos=True)
    yield
    # Or the request has all its tokens before the next script comes, and there is nothing to abort.
    t.scheduler.get_next_batch_to_run = lambda: None
    t.scheduler.process_input_requests = _die


def _die(messages):
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_scheduler_that_dies_in_the_reset(server):
    server.execute_script(_script_that_sets_a_trap_for_the_reset)
    with pytest.raises(EngineDied, match="scheduler"):
        server.execute_script(_nothing)


def _script_that_breaks_what_comes_after_it(t):
    t.scheduler.get_next_batch_to_run = _break
    yield from ()


def _break():
    raise RuntimeError("a planned failure of the free engine")


def test_an_exception_between_scripts_reaches_clients_and_the_next_script(server):
    server.execute_script(_script_that_breaks_what_comes_after_it)
    with pytest.raises(EngineDied, match=r"scheduler \(pid \d+\) broke: RuntimeError: a planned"):
        server.execute_script(_nothing)


# -- end


@pytest.mark.parametrize("role", ["main", "scheduler"])
def test_a_stopped_process_does_not_hold_the_shutdown_up_for_long(server, role):
    os.kill(_pids(server)[role], signal.SIGSTOP)
    begun = time.monotonic()
    server.shutdown()
    assert time.monotonic() - begun < _AT_ONCE_S + server_launch(server.config).stop_grace_s
