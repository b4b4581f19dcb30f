"""A pipeline whose stages are processes: the end of any one is noticed, named, and leaves nothing."""

from __future__ import annotations

import os
import signal
import time

import pytest
from scripted_backend_pp import CHUNK_TOKENS, launch_whole_prompt, pipeline_kwargs
from scripted_core.errors import (
    ConfigError,
    EngineDied,
    EngineDirty,
    EngineStartError,
    PluginNotFound,
)
from scripted_core.sessions.base import make_config, parse_backend
from scripted_core.sessions.http_server import ScriptedHttpServer
from scripted_core.sessions.processes import group_members, proc_state
from scripted_registry import EngineMode
from scripted_registry.ci import register_cpu_ci

register_cpu_ci(est_time=8, stage="pp", runner_config="cpu")

_NOTICED_WITHIN_S = 1.0
_STAGES = 3


@pytest.fixture
def server(request):
    """A pipeline of this test's own, since no test leaves it usable."""
    chosen = request.config.getoption("scripted_backend")
    try:
        engine = parse_backend(chosen[0])[0] if chosen else None
        config = make_config(engine, pipeline_kwargs(pp_size=_STAGES), mode=EngineMode.SERVER)
    except (ConfigError, EngineStartError, PluginNotFound) as error:
        pytest.skip(f"no engine has the capability 'processes' here: {error}")
    if config.engine != "reference":
        pytest.skip(f"{_STAGES} stages of {config.engine!r} need a GPU each")
    started = ScriptedHttpServer.from_config(config)
    everybody = group_members(started.main_pid)
    yield started
    started.shutdown()
    assert _running(everybody) == []


def _kills(t, pid):
    r = t.start_req(prompt_len=4 * CHUNK_TOKENS, seed=1, max_new_tokens=500, ignore_eos=True)
    yield from launch_whole_prompt(t, r, chunks=4)
    os.kill(pid, signal.SIGKILL)
    while True:
        yield


def _running(pids):
    states = {pid: proc_state(pid) for pid in pids}
    return [pid for pid, state in states.items() if state != "gone" and state[0] not in "ZX"]


@pytest.mark.parametrize("role", ["main", *(f"scheduler pp{index}" for index in range(_STAGES))])
def test_the_end_of_any_process_is_noticed_and_named(server, role):
    pids = {name: pid for pid, name in server.pids.items()}
    assert sorted(pids) == ["main", *(f"scheduler pp{index}" for index in range(_STAGES))]
    everybody = group_members(server.main_pid)
    begun = time.monotonic()
    with pytest.raises(EngineDied) as caught:
        server.execute_script(_kills, args=(pids[role],))
    # From the kill on; the steps before it take part of this.
    assert time.monotonic() - begun < 5 * _NOTICED_WITHIN_S
    assert f"{role} (pid {pids[role]})" in str(caught.value)
    with pytest.raises(EngineDirty, match=str(pids[role])):
        server.execute_script(_kills, args=(pids[role],))
    begun = time.monotonic()
    server.shutdown()
    assert time.monotonic() - begun < 5 * _NOTICED_WITHIN_S
    assert _running(everybody) == []


def _waits_long(t, pid, board):
    os.kill(pid, signal.SIGKILL)
    board.write_text(str(time.monotonic_ns()))
    while True:
        yield


def test_it_is_noticed_within_a_second(server, tmp_path):
    (pid,) = (pid for pid, name in server.pids.items() if name == "scheduler pp1")
    board = tmp_path / "killed-at"
    with pytest.raises(EngineDied):
        server.execute_script(_waits_long, args=(pid, board))
    noticed_ns = time.monotonic_ns()
    assert (noticed_ns - int(board.read_text())) / 1e9 < _NOTICED_WITHIN_S
