"""Engines in processes of their own: killed, stopped, stuck and interrupted in mid-script."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time

import pytest
from scripted_backend_single import single_device_kwargs
from scripted_core.errors import (
    ConfigError,
    EngineDied,
    EngineDirty,
    EngineStartError,
    PluginNotFound,
    ScriptStalled,
)
from scripted_core.sessions.base import (
    backend_name,
    make_config,
    parse_backend,
    start_session,
)
from scripted_core.sessions.http_server import ScriptedHttpServer
from scripted_core.sessions.processes import group_members, still_running
from scripted_registry import EngineMode
from scripted_registry.ci import register_cpu_ci

register_cpu_ci(est_time=35, stage="single", runner_config="cpu")
register_cpu_ci(est_time=180, stage="single-sglang", runner_config="cpu")

_NOTICED_WITHIN_S = 5.0
_STALL_TIMEOUT_S = 2.0
_ROLES = ("main", "scheduler", "detokenizer")
_ROLES_OF = {"reference": ("main", "scheduler")}


@pytest.fixture
def backend(request) -> str | None:
    chosen = request.config.getoption("scripted_backend")
    return chosen[0] if chosen else None


@pytest.fixture
def server_config(backend):
    try:
        engine = None if backend is None else parse_backend(backend)[0]
        return make_config(engine, single_device_kwargs(), mode=EngineMode.SERVER)
    except (ConfigError, EngineStartError, PluginNotFound) as error:
        pytest.skip(f"no engine has the capability 'processes' here: {error}")


@pytest.fixture
def server(server_config):
    """A server engine of this test's own, since no test leaves it usable."""
    started = ScriptedHttpServer.from_config(server_config, stall_timeout_s=_STALL_TIMEOUT_S)
    yield started
    everybody = group_members(started.main_pid)
    started.shutdown()
    assert still_running(everybody) == {}


def _script_that_signals(t, pid, number):
    r = t.start_req(prompt_len=100, max_new_tokens=500, ignore_eos=True)
    for _ in range(5):
        yield
    assert r.status == "running"
    os.kill(pid, number)
    while True:
        yield


def _script_that_never_yields(t):
    t.start_req(prompt_len=100, max_new_tokens=500, ignore_eos=True)
    yield
    spin_without_a_yield()


def spin_without_a_yield():
    while True:
        time.sleep(0.01)


@pytest.mark.parametrize("role", _ROLES)
def test_the_death_of_an_engine_process_is_noticed_and_named(server, role):
    pids = {name: pid for pid, name in server.pids.items()}
    roles = _ROLES_OF.get(server.config.engine, _ROLES)
    assert sorted(pids) == sorted(roles), "an engine process has no test here, or is not there"
    if role not in pids:
        pytest.skip(f"engine {server.config.engine!r} has no process with the role {role!r}")
    everybody = group_members(server.main_pid)
    assert set(everybody) >= set(pids.values())
    begun = time.monotonic()
    with pytest.raises(EngineDied) as caught:
        server.execute_script(_script_that_signals, args=(pids[role], int(signal.SIGKILL)))
    assert time.monotonic() - begun < _NOTICED_WITHIN_S
    assert f"{role} (pid {pids[role]})" in str(caught.value)
    with pytest.raises(EngineDirty, match=str(pids[role])):
        server.execute_script(_script_that_never_yields)
    begun = time.monotonic()
    server.shutdown()
    assert time.monotonic() - begun < _NOTICED_WITHIN_S
    assert still_running(everybody) == {}


def test_a_server_script_that_never_yields_is_stopped_with_its_stacks(server):
    begun = time.monotonic()
    with pytest.raises(ScriptStalled) as caught:
        server.execute_script(_script_that_never_yields)
    assert time.monotonic() - begun < _STALL_TIMEOUT_S + _NOTICED_WITHIN_S
    assert "spin_without_a_yield" in str(caught.value)
    with pytest.raises(EngineDirty, match="ScriptStalled"):
        server.execute_script(_script_that_never_yields)


def test_a_stopped_scheduler_is_a_stall_that_says_so(server):
    (pid,) = (pid for pid, name in server.pids.items() if name == "scheduler")
    begun = time.monotonic()
    with pytest.raises(ScriptStalled) as caught:
        server.execute_script(_script_that_signals, args=(pid, int(signal.SIGSTOP)))
    assert time.monotonic() - begun < _STALL_TIMEOUT_S + _NOTICED_WITHIN_S
    assert f"scheduler, process {pid}: T (stopped)" in str(caught.value)


_INTERRUPTED = """
import os, pathlib
import pytest

pytestmark = pytest.mark.scripted(**{kwargs!r})


def break_the_loop(*args, **kwargs):
    raise RuntimeError("a planned failure of the event loop")


@pytest.mark.scripted_requires("sglang_names")
def test_that_breaks_the_event_loop(t):
    t.start_req(prompt_len=100, max_new_tokens=500, ignore_eos=True)
    yield
    t.scheduler.get_next_batch_to_run = break_the_loop
    while True:
        yield


def test_that_is_interrupted(t):
    r = t.start_req(prompt_len=100, max_new_tokens=500, ignore_eos=True)
    while not r.output_ids:
        yield
    pathlib.Path({folder!r}, "group").write_text(str(os.getpgid(0)))
    pathlib.Path({folder!r}, "group").rename(pathlib.Path({folder!r}, "running"))
    while True:
        yield
"""


def test_a_broken_event_loop_is_reported_and_ctrl_c_leaves_nothing(server_config, tmp_path):
    kwargs = dict(server_config.kwargs)
    (tmp_path / "test_interrupted.py").write_text(
        _INTERRUPTED.format(kwargs=kwargs, folder=str(tmp_path))
    )
    run = subprocess.Popen(
        [
            *(sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--color=no"),
            *(
                "-rA",
                "--durations=0",
                "--scripted-backend",
                backend_name(server_config.engine, server_config.mode),
                "test_interrupted.py",
            ),
        ],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        flag = tmp_path / "running"
        deadline = time.monotonic() + 400
        while not flag.exists() and run.poll() is None and time.monotonic() < deadline:
            time.sleep(0.05)  # another program's doing: nothing to wait on
        everybody = group_members(int(flag.read_text())) if flag.exists() else {}
        run.send_signal(signal.SIGINT)
        interrupted_at = time.monotonic()
        output = run.communicate(timeout=60)[0]
        ended_s = time.monotonic() - interrupted_at
    finally:
        run.kill()
    assert everybody, output
    assert still_running(everybody) == {}
    assert run.returncode == pytest.ExitCode.INTERRUPTED, output
    assert "KeyboardInterrupt" in output
    assert ended_s < 4 * _NOTICED_WITHIN_S
    # The test before it, whose engine broke, is an ERROR with the cause, and came at once.
    assert "RuntimeError: a planned failure of the event loop" in output
    assert "in break_the_loop" in output
    assert re.search(r"^ERROR .*test_that_breaks_the_event_loop", output, re.MULTILINE), output
    found = re.search(r"([\d.]+)s script +.*test_that_breaks_the_event_loop", output)
    assert found, output
    assert float(found[1]) < _NOTICED_WITHIN_S


def test_an_in_process_script_that_never_yields_is_stopped_with_its_stack(backend):
    engine = None if backend is None else parse_backend(backend)[0]
    try:
        config = make_config(engine, single_device_kwargs(), mode=EngineMode.IN_PROCESS)
    except (ConfigError, EngineStartError, PluginNotFound) as error:
        pytest.skip(f"no in-process engine here: {error}")
    session = start_session(config, stall_timeout_s=0.3)
    with pytest.raises(ScriptStalled) as caught:
        session.execute_script(_script_that_never_yields)
    assert "spin_without_a_yield" in str(caught.value)
    assert "last state" in str(caught.value)
    with pytest.raises(EngineDirty, match="ScriptStalled"):
        session.execute_script(_script_that_never_yields)
    session.shutdown()
