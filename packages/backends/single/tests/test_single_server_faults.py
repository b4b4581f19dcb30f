"""Engines in processes of their own: each of them killed in mid-script, and scripts that stall."""

from __future__ import annotations

import os
import signal
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
from scripted_core.sessions.base import make_config, start_session
from scripted_core.sessions.http_server import ScriptedHttpServer
from scripted_core.sessions.processes import command_name, proc_state
from scripted_registry import EngineMode
from scripted_registry.ci import register_cpu_ci

register_cpu_ci(est_time=2, stage="single", runner_config="cpu")
register_cpu_ci(est_time=90, stage="single-sglang", runner_config="cpu")

_NOTICED_WITHIN_S = 5.0
_STALL_TIMEOUT_S = 2.0
_ROLES = ("main", "scheduler", "detokenizer")


@pytest.fixture
def backend(request) -> str | None:
    chosen = request.config.getoption("scripted_backend")
    return chosen[0] if chosen else None


@pytest.fixture
def server(backend):
    """A server engine of this test's own, since no test leaves it usable."""
    try:
        config = make_config(backend, single_device_kwargs(), mode=EngineMode.SERVER)
    except (ConfigError, EngineStartError, PluginNotFound) as error:
        pytest.skip(f"no engine has the capability 'processes' here: {error}")
    started = ScriptedHttpServer.start(
        backend=config.engine, stall_timeout_s=_STALL_TIMEOUT_S, **config.kwargs
    )
    yield started
    started.shutdown()


def _script_that_kills(t, pid):
    r = t.start_req(prompt_len=100, max_new_tokens=500, ignore_eos=True)
    for _ in range(5):
        yield
    assert r.status == "running"
    os.kill(pid, signal.SIGKILL)
    while True:
        yield


def _script_that_never_yields(t):
    t.start_req(prompt_len=100, max_new_tokens=500, ignore_eos=True)
    yield
    spin_without_a_yield()


def spin_without_a_yield():
    while True:
        time.sleep(0.01)


def _running(pids):
    states = {pid: proc_state(pid) for pid in pids}
    return {pid: state for pid, state in states.items() if state != "gone" and state[0] not in "ZX"}


def _pids_by_role(server):
    """Each engine process by what it does; Python's own helper processes are none of the engine's."""
    found = {}
    for pid, name in server.pids.items():
        title = name if name == "main" else command_name(pid)
        if "resource_tracker" not in title:
            role = next((role for role in _ROLES if role in title), title)
            found.setdefault(role, []).append(pid)
    return found


@pytest.mark.parametrize("role", _ROLES)
def test_the_death_of_an_engine_process_is_noticed_and_named(server, role):
    pids = _pids_by_role(server)
    assert sorted(pids) == sorted(_ROLES), "an engine process has no test here, or is not there"
    (pid,) = pids[role]
    everybody = set(server.pids)
    begun = time.monotonic()
    with pytest.raises(EngineDied) as caught:
        server.execute_script(_script_that_kills, args=(pid,))
    assert time.monotonic() - begun < _NOTICED_WITHIN_S
    assert str(pid) in str(caught.value)
    assert role in str(caught.value).partition("log tail")[0]
    with pytest.raises(EngineDirty, match=str(pid)):
        server.execute_script(_script_that_never_yields)
    server.shutdown()
    assert _running(everybody) == {}


def test_a_server_script_that_never_yields_is_stopped_with_its_stacks(server):
    everybody = set(server.pids)
    begun = time.monotonic()
    with pytest.raises(ScriptStalled) as caught:
        server.execute_script(_script_that_never_yields)
    assert time.monotonic() - begun < _STALL_TIMEOUT_S + _NOTICED_WITHIN_S
    assert "spin_without_a_yield" in str(caught.value)
    with pytest.raises(EngineDirty, match="ScriptStalled"):
        server.execute_script(_script_that_never_yields)
    server.shutdown()
    assert _running(everybody) == {}


def test_an_in_process_script_that_never_yields_is_stopped_with_its_stack(backend):
    try:
        config = make_config(backend, single_device_kwargs(), mode=EngineMode.IN_PROCESS)
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
