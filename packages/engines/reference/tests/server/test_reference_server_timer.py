"""The clock of `fwd_occupancy`: time that a thread waits for a CPU is not its own."""

from __future__ import annotations

import os
import threading
import time

import pytest
from scripted_reference.faults.of_servers import ServerFault
from scripted_reference.in_process import InProcessReference
from scripted_reference.server import own_time
from scripted_reference.server.arguments import asks_for_device_timer
from scripted_reference.server.device_timer import HostTimer, device_timer
from scripted_reference.server.own_time import OwnTime
from scripted_registry import EngineConfig, EngineMode
from scripted_registry.ci import register_cpu_ci
from scripted_registry.errors import ConfigError

register_cpu_ci(est_time=5, stage="reference", runner_config="cpu")

_FLAG = "SGLANG_ENABLE_METRICS_DEVICE_TIMER"


def test_sleep_and_work_are_a_threads_own_time():
    clock = OwnTime()
    longest = 0
    for _ in range(10):  # on a busy machine a sleeper waits for a CPU as well, and that is left out
        begun, wall = clock(), time.perf_counter_ns()
        time.sleep(0.05)
        own = clock() - begun
        assert own <= time.perf_counter_ns() - wall
        longest = max(longest, own)
    assert longest > 45e6


def test_it_never_goes_backwards():
    clock = OwnTime()
    seen = [clock() for _ in range(20_000)]
    assert seen == sorted(seen)


@pytest.mark.skipif(
    not os.path.exists("/proc/thread-self/schedstat"), reason="needs the capability 'schedstat'"
)
def test_waiting_for_a_cpu_is_left_out():
    """Two threads that compute on one CPU: each owns what it computed, about half of the wall time."""
    cpus = os.sched_getaffinity(0)
    found: list[tuple[float, float]] = []

    def compute() -> None:
        os.sched_setaffinity(0, {min(cpus)})
        clock = OwnTime()
        own, wall, cpu = clock(), time.perf_counter_ns(), time.thread_time_ns()
        while time.thread_time_ns() - cpu < 300e6:
            sum(range(1000))
        found.append((clock() - own, time.perf_counter_ns() - wall))

    # Without the interpreter's lock between them: another process takes the CPU.
    rival = os.fork()
    if rival == 0:
        os.sched_setaffinity(0, {min(cpus)})
        end = time.monotonic() + 30
        while time.monotonic() < end:
            sum(range(1000))
        os._exit(0)
    try:
        thread = threading.Thread(target=compute)
        thread.start()
        thread.join()
    finally:
        os.kill(rival, 9)
        os.waitpid(rival, 0)
    ((own, wall),) = found
    assert wall > 1.3 * own


def test_without_the_figures_it_is_the_wall_clock(monkeypatch, tmp_path):
    for content in (None, "12\n"):
        path = tmp_path / "schedstat"
        if content is not None:
            path.write_text(content)
        monkeypatch.setattr(own_time, "_SCHEDSTAT", str(path))
        before = time.perf_counter_ns()
        assert before <= OwnTime()() <= time.perf_counter_ns()


def test_a_cpu_is_timed_by_the_hosts_clock():
    assert isinstance(device_timer("cpu"), HostTimer)


@pytest.mark.parametrize(
    ("value", "asks"), [("1", True), ("true", True), ("0", False), ("", False), (None, False)]
)
def test_sglangs_variable_asks_for_a_timer(value, asks):
    assert asks_for_device_timer({} if value is None else {_FLAG: value}) is asks


def test_a_variable_that_is_neither_true_nor_false_is_refused():
    with pytest.raises(ConfigError, match="neither true nor false"):
        asks_for_device_timer({_FLAG: "maybe"})


def test_a_fault_of_servers_is_refused_where_there_is_none():
    config = EngineConfig(
        engine="reference",
        kwargs={"inject_fault": ServerFault.STALL.value},
        mode=EngineMode.IN_PROCESS,
    )
    with pytest.raises(ConfigError, match="fault of servers") as caught:
        InProcessReference(config)
    assert "reference:server" in str(caught.value.hint)


@pytest.mark.parametrize("fault", [ServerFault.KV_SLOT, ServerFault.DRAFT])
def test_a_fault_that_needs_another_model_says_so(start_server, fault):
    with pytest.raises(AssertionError, match="needs a"):
        start_server(inject_fault=fault.value)
