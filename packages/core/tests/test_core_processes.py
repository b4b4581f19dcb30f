from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time

import pytest
from scripted_core.sessions.processes import (
    ProcessWatch,
    command_name,
    descendants,
    group_members,
    proc_state,
)
from scripted_core.sessions.stall_guard import StallGuard, StallInterrupt
from scripted_registry.ci import register_cpu_ci

register_cpu_ci(est_time=2, stage="unit", runner_config="cpu")

SLEEPS = "import sys; sys.stdin.read()"
PARENT = """
import subprocess, sys
code = "import os, sys; print(os.getpid(), flush=True); sys.stdin.read()"
subprocess.Popen([sys.executable, "-S", "-c", code], stdin=sys.stdin).wait()
"""


@pytest.fixture
def spawn():
    """Children that end with their standard input."""
    running = []

    def spawn(code=SLEEPS):
        process = subprocess.Popen(
            [sys.executable, "-S", "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        running.append(process)
        return process

    yield spawn
    for process in running:
        process.stdin.close()
        process.wait(10)
        process.stdout.close()


@pytest.fixture
def watch():
    one = ProcessWatch()
    yield one
    one.close()


def test_descendants_are_found_at_every_depth(spawn):
    parent = spawn(PARENT)
    child = int(parent.stdout.readline())
    found = descendants(os.getpid())
    assert {parent.pid, child} <= set(found)
    assert set(descendants(parent.pid)) == {child}
    assert "getpid" in found[child]
    assert descendants(child) == {}


def test_an_orphan_is_still_a_member_of_its_group(spawn):
    code = """
import os, subprocess, sys
os.setpgid(0, 0)
child = subprocess.Popen([sys.executable, "-S", "-c", "import sys; sys.stdin.read()"])
print(child.pid, flush=True)
os._exit(0)
"""
    parent = spawn(code)
    child = int(parent.stdout.readline())
    os.waitid(os.P_PID, parent.pid, os.WEXITED | os.WNOWAIT)
    assert child not in descendants(parent.pid)
    assert set(group_members(parent.pid)) == {parent.pid, child}


def test_a_process_that_is_gone_has_no_descendants_state_or_name(spawn):
    process = spawn()
    process.stdin.close()
    process.wait(10)
    assert descendants(process.pid) == {}
    assert proc_state(process.pid) == "gone"
    assert command_name(process.pid) == "?"


def test_the_state_is_the_kernels_word(spawn):
    process = spawn()
    process.send_signal(signal.SIGSTOP)
    os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WNOWAIT)
    assert proc_state(process.pid).startswith("T")
    process.send_signal(signal.SIGCONT)


def test_a_watch_sees_an_end_at_once(spawn, watch):
    process = spawn()
    watch.add(process.pid, "python")
    watch.add(process.pid, "rank 0")
    assert watch.pids == {process.pid: "rank 0"}
    assert len(watch.fds) == 1
    assert watch.ended() == []
    assert not watch.wait_all(0.01)
    process.kill()
    assert watch.wait_all(5)
    assert watch.ended() == [(process.pid, "rank 0")]


def test_wait_all_waits_for_all(spawn, watch):
    processes = [spawn(), spawn()]
    for n, process in enumerate(processes):
        watch.add(process.pid, f"rank {n}")
    processes[0].kill()
    assert not watch.wait_all(0.05)
    watch.kill_all()
    begun = time.monotonic()
    assert watch.wait_all(5)
    assert time.monotonic() - begun < 4
    assert {name for _, name in watch.ended()} == {"rank 0", "rank 1"}
    watch.kill_all()


def test_a_process_that_is_gone_already_has_ended(spawn, watch):
    process = spawn()
    process.stdin.close()
    process.wait(10)
    watch.add(process.pid, "rank 0")
    assert watch.ended() == [(process.pid, "rank 0")]
    assert watch.wait_all(0)


def test_an_empty_watch_has_nothing_to_wait_for(watch):
    assert watch.ended() == []
    assert watch.wait_all(0)


def test_close_closes_the_descriptors(spawn):
    watch = ProcessWatch()
    watch.add(spawn().pid, "rank 0")
    (fd,) = watch.fds
    watch.close()
    watch.close()
    with pytest.raises(OSError, match="Bad file"):
        os.fstat(fd)


# -- the stall guard -----------------------------------------------------------------------------


def guard_threads():
    return [thread for thread in threading.enumerate() if thread.name == "scripted-stall"]


def stall():
    """Never gets any further, in Python and in the kernel."""
    event = threading.Event()
    while True:
        event.wait(0.02)


def guarded(work, *, progress=lambda: 0, timeout_s=0.05):
    guard = StallGuard(progress, timeout_s=timeout_s)
    with pytest.raises(StallInterrupt), guard:
        work()
    assert guard_threads() == []
    return guard.report


def in_worker(function):
    results = []

    def work():
        try:
            results.append(function())
        except BaseException as error:
            results.append(error)

    thread = threading.Thread(target=work, name="the-worker")
    thread.start()
    thread.join(10)
    assert not thread.is_alive()
    return results[0]


def test_a_stall_in_the_main_thread_shows_where():
    before = signal.getsignal(signal.SIGRTMIN + 6)
    report = guarded(stall)
    assert "in stall" in report
    assert "MainThread" in report
    assert "0.05 s" in report
    assert signal.getsignal(signal.SIGRTMIN + 6) == before


def test_a_blocking_call_in_the_main_thread_is_interrupted():
    read, write = os.pipe()
    try:
        assert "in test_a_blocking_call" in guarded(lambda: os.read(read, 1))
    finally:
        os.close(read)
        os.close(write)


def test_a_stall_in_a_worker_thread_shows_where():
    report = in_worker(lambda: guarded(stall))
    assert isinstance(report, str), repr(report)
    assert "thread the-worker" in report
    assert "in stall" in report


def test_swallowing_it_once_does_not_help():
    swallowed = []

    def stubborn():
        try:
            stall()
        except StallInterrupt:
            swallowed.append(1)
        stall()

    guarded(stubborn)
    assert swallowed == [1]


@pytest.mark.parametrize("run", [lambda function: function(), in_worker])
def test_progress_is_no_stall_however_long_it_takes(run):
    ticks = 0

    def work():
        nonlocal ticks
        event = threading.Event()
        guard = StallGuard(lambda: ticks, timeout_s=0.05)
        with guard:
            for _ in range(30):
                event.wait(0.01)
                ticks += 1
        return guard.report

    assert run(work) == ""
    assert guard_threads() == []


def test_an_exception_inside_goes_through():
    with pytest.raises(ZeroDivisionError), StallGuard(lambda: 0, timeout_s=5):
        raise ZeroDivisionError
    assert guard_threads() == []


def test_a_ctrl_c_while_it_is_entered_ends_the_watch(monkeypatch):
    start = threading.Thread.start

    def interrupted(thread):
        start(thread)
        raise KeyboardInterrupt

    handlers = {number: signal.getsignal(number) for number in signal.valid_signals()}
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", interrupted)
        with pytest.raises(KeyboardInterrupt), StallGuard(lambda: 0, timeout_s=5):
            pytest.fail("it was entered")
    assert guard_threads() == []
    assert {number: signal.getsignal(number) for number in handlers} == handlers


COLLECTING = """
import gc, os, signal, threading
from scripted_core.cli.signals import Ended, EndingSignals

def callback(phase, info):
    if phase == "start" and not told:
        told.append(phase)
        os.kill(os.getpid(), signal.SIGTERM)

told = []
with EndingSignals() as ending:
    gc.callbacks.append(callback)
    try:
        gc.collect()
        threading.Event().wait(60)
    except Ended:
        print("ended by", ending.received.name)
"""


def test_a_signal_while_garbage_is_collected_ends_the_program_a_moment_later():
    command = [sys.executable, "-c", COLLECTING]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert (ended.stdout, ended.stderr) == ("ended by SIGTERM\n", "")
