"""An engine of several servers: started, watched and ended as one."""

from __future__ import annotations

import os
import signal
import sys
import time

import pytest
from scripted_core.sessions.launch import ServerLaunch, ServerMember
from scripted_core.sessions.processes import descendants, still_running
from scripted_core.sessions.server_process import ServerProcess
from scripted_core.wire.address import (
    ENV_MEMBER,
    create_address,
    member_from_env,
    role_of_process,
)
from scripted_registry.ci import register_cpu_ci

register_cpu_ci(est_time=3, stage="unit", runner_config="cpu")

_SAYS = (
    "import os, subprocess, sys, time; print(os.environ['SCRIPTED_MEMBER'] or 'main', flush=True); "
    "subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)']); time.sleep(60)"
)


def _member(role):
    return ServerMember(role=role, argv=(sys.executable, "-c", _SAYS), host="::1", port=7)


@pytest.fixture
def started():
    address = create_address()
    launch = ServerLaunch(
        argv=(sys.executable, "-c", _SAYS),
        host="127.0.0.1",
        port=1,
        stop_grace_s=0.0,
        members=(_member("prefill"), _member("decode")),
    )
    process = ServerProcess(launch=launch, address=address, engine="any")
    deadline = time.monotonic() + 30
    while len(process.log_text().split()) < 3:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    yield process
    process.stop()
    address.remove()


def test_all_of_them_run_with_their_roles_and_end_together(started):
    assert sorted(started.log_text().split()) == ["decode", "main", "prefill"]
    names = dict(started.watch.pids)
    assert sorted(names.values()) == ["decode server", "main", "prefill server"]
    assert names[started.pid] == "main"
    started.stop()
    assert still_running(names) == {}
    assert started.watch.pids == {}, "their children were found and ended as well"


def test_the_end_of_one_is_told_with_its_name_and_how(started):
    victim = next(pid for pid, name in started.watch.pids.items() if name == "decode server")
    os.kill(victim, signal.SIGKILL)
    assert not started.watch.wait_all(0.0)
    deadline = time.monotonic() + 30
    while not (ended := started.watch.ended()):
        assert time.monotonic() < deadline
    assert started.describe_ends(ended) == f"decode server (pid {victim}) was killed by SIGKILL"


def test_one_that_cannot_be_started_takes_the_others_along():
    address = create_address()
    launch = ServerLaunch(argv=("a\0b",), host="h", port=1, members=(_member("prefill"),))
    before = descendants(os.getpid())
    try:
        with pytest.raises(ValueError, match="null byte"):
            ServerProcess(launch=launch, address=address, engine="any")
    finally:
        address.remove()
    assert descendants(os.getpid()).keys() <= before.keys()


def test_names_of_processes_and_addresses():
    assert member_from_env({}) is None
    assert member_from_env({ENV_MEMBER: ""}) is None
    assert role_of_process("scheduler", {}) == "scheduler"
    assert role_of_process("scheduler", {ENV_MEMBER: "decode"}) == "decode scheduler"
    assert role_of_process("main", {ENV_MEMBER: "decode"}) == "decode server"
    assert _member("decode").base_url == "http://[::1]:7"
