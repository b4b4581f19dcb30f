"""A pipeline whose stages are processes: one that ends or hangs is noticed, and leaves nothing."""

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
    ScriptStalled,
)
from scripted_core.sessions.base import make_config, parse_backend
from scripted_core.sessions.http_server import ScriptedHttpServer
from scripted_core.sessions.processes import group_members, still_running
from scripted_registry import EngineMode
from scripted_registry.ci import register_cpu_ci

register_cpu_ci(est_time=8, stage="pp", runner_config="cpu")
register_cpu_ci(est_time=60, stage="pp-sglang", runner_config="cpu")

_NOTICED_WITHIN_S = 1.0
_STALL_TIMEOUT_S = 2.0
# Of a real engine a server takes long to start, and a process beside the stages is tried elsewhere.
_STAGES_OF = {"reference": 3}
_ENDED = {"reference": ("main", "scheduler pp0", "scheduler pp1", "scheduler pp2")}


def _engine(config):
    chosen = config.getoption("scripted_backend")
    return parse_backend(chosen[0])[0] if chosen else "reference"


def pytest_generate_tests(metafunc):
    if "role" in metafunc.fixturenames:
        metafunc.parametrize("role", _ENDED.get(_engine(metafunc.config), ("scheduler pp1",)))


@pytest.fixture
def server(request):
    """A pipeline of this test's own, since no test leaves it usable."""
    engine = _engine(request.config)
    kwargs = pipeline_kwargs(pp_size=_STAGES_OF.get(engine, 2))
    try:
        config = make_config(engine, kwargs, mode=EngineMode.SERVER)
    except (ConfigError, EngineStartError, PluginNotFound) as error:
        pytest.skip(f"no engine has the capability 'processes' here: {error}")
    started = ScriptedHttpServer.from_config(config, stall_timeout_s=_STALL_TIMEOUT_S)
    everybody = group_members(started.main_pid)
    yield started
    started.shutdown()
    assert still_running(everybody) == {}


def _signals(t, pid, number, board):
    r = t.start_req(prompt_len=4 * CHUNK_TOKENS, seed=1, max_new_tokens=500, ignore_eos=True)
    yield from launch_whole_prompt(t, r, chunks=4)
    board.write_text(str(time.monotonic_ns()))
    os.kill(pid, number)
    while True:
        yield


def _pids(server):
    return {name: pid for pid, name in server.pids.items()}


def test_the_end_of_any_process_is_noticed_and_named(server, role, tmp_path):
    pids = _pids(server)
    stages = [f"scheduler pp{index}" for index in range(server.config.kwargs["pp_size"])]
    assert {"main", *stages} <= set(pids)
    everybody = group_members(server.main_pid)
    board = tmp_path / "killed-at"
    args = (pids[role], int(signal.SIGKILL), board)
    with pytest.raises(EngineDied) as caught:
        server.execute_script(_signals, args=args)
    noticed_ns = time.monotonic_ns()
    assert (noticed_ns - int(board.read_text())) / 1e9 < _NOTICED_WITHIN_S
    assert f"{role} (pid {pids[role]})" in str(caught.value)
    with pytest.raises(EngineDirty, match=str(pids[role])):
        server.execute_script(_signals, args=args)
    begun = time.monotonic()
    server.shutdown()
    assert time.monotonic() - begun < 5 * _NOTICED_WITHIN_S
    assert still_running(everybody) == {}


def test_a_stage_that_hangs_is_a_stall_that_says_so(server, tmp_path):
    pids = _pids(server)
    everybody = group_members(server.main_pid)
    stopped = pids["scheduler pp1"]
    with pytest.raises(ScriptStalled) as caught:
        server.execute_script(
            _signals, args=(stopped, int(signal.SIGSTOP), tmp_path / "stopped-at")
        )
    assert f"scheduler pp1, process {stopped}: T (stopped)" in str(caught.value)
    with pytest.raises(EngineDirty, match="ScriptStalled"):
        server.execute_script(_signals, args=(stopped, int(signal.SIGSTOP), tmp_path / "again"))
    server.shutdown()
    assert still_running(everybody) == {}
