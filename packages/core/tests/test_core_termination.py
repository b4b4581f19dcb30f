"""A process that dies of SIGTERM or SIGHUP leaves no engine and no folder behind."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest
from scripted_core.sessions.processes import group_members, still_running
from scripted_core.sessions.termination import LastActs
from scripted_registry.ci import register_cpu_ci

register_cpu_ci(est_time=3, stage="unit", runner_config="cpu")

_PROGRAM = """
import sys, time
from scripted_core.sessions.launch import ServerLaunch
from scripted_core.sessions.server_process import ServerProcess
from scripted_core.wire.address import create_address

address = create_address()
launch = ServerLaunch(argv=(sys.executable, "-c", "import time; time.sleep(60)"),
                      host="127.0.0.1", port=1)
process = ServerProcess(launch=launch, address=address, engine="any")
print(address.directory, process.pid, flush=True)
time.sleep(60)
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_the_engine_and_its_folder_and_then_the_process(tmp_path, number):
    with subprocess.Popen(
        [sys.executable, "-c", _PROGRAM],
        stdout=subprocess.PIPE,
        text=True,
        env={"TMPDIR": str(tmp_path), "PYTHONPATH": ":".join(sys.path)},
    ) as starter:
        assert starter.stdout is not None
        folder, pid = starter.stdout.readline().split()
        assert Path(folder).is_dir()
        engine = group_members(int(pid))
        assert engine
        starter.send_signal(number)
        assert starter.wait(timeout=10) == -number, "it dies of the signal, as others expect"
    assert list(tmp_path.iterdir()) == []
    assert still_running(engine) == {}


def test_handlers_of_others_are_kept_and_ours_go_with_the_last_act():
    acts = LastActs()

    def theirs(number, frame):
        raise AssertionError("not called here")

    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)]
    signal.signal(signal.SIGTERM, theirs)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    try:
        acts.add("one", list)
        acts.add("two", list)
        assert signal.getsignal(signal.SIGTERM) is theirs
        assert signal.getsignal(signal.SIGHUP) not in (signal.SIG_DFL, theirs)
        acts.remove("one")
        assert signal.getsignal(signal.SIGHUP) is not signal.SIG_DFL
        acts.remove("two")
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_DFL
        assert signal.getsignal(signal.SIGTERM) is theirs
    finally:
        for number, handler in zip((signal.SIGTERM, signal.SIGHUP), before, strict=True):
            signal.signal(number, handler)
