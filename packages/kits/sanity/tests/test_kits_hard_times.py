"""A server behind a proxy with a key, one that dies, one that hangs, one without a flag."""

from __future__ import annotations

import importlib.util
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
from scripted_core.sessions.processes import descendants
from scripted_kit_client import (
    KitReport,
    Outcome,
    Target,
    free_url,
    kill_process_tree,
    popen_launch_server,
)
from scripted_kit_client.cli import KitExit, exit_status
from scripted_kit_hellaswag import HELLASWAG, HellaswagOptions
from scripted_kit_occupancy import OCCUPANCY, OccupancyOptions
from scripted_kit_sanity import SANITY, SanityOptions
from scripted_registry.ci import register_cpu_ci

register_cpu_ci(est_time=25, stage="reference", runner_config="cpu")

pytestmark = pytest.mark.usefixtures("seeded_faults")

_STUB = Path(__file__).parents[2] / "client" / "tests" / "kit_stub.py"


@pytest.fixture(scope="module")
def stub() -> ModuleType:
    spec = importlib.util.spec_from_file_location("kit_stub", _STUB)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def mortal(request: pytest.FixtureRequest) -> Iterator[tuple[Target, subprocess.Popen[str]]]:
    """A server that the test may kill, with this model; `hash` starts without torch."""
    url = free_url()
    flags = ["--enable-metrics", "--enable-metrics-device-timer"]
    process = popen_launch_server(request.param, url, backend="reference", other_args=flags)
    yield Target(url=url, timeout_s=20), process
    kill_process_tree(process.pid)


def test_kits_work_through_a_path_of_a_proxy_that_asks_for_a_key(start, stub):
    with stub.proxied(start().url, prefix="/team/engine", key="sesame") as url:
        target = Target(url=url, api_key="sesame")
        few = SanityOptions(skip="recall,answers,long_prompt", pause_s=0.1)
        SANITY(target, options=few).raise_for_outcome()
        HELLASWAG(target, options=HellaswagOptions(limit=4)).raise_for_outcome()
        options = OccupancyOptions(threshold=10, max_new_tokens=320, scrape_interval_s=0.05)
        OCCUPANCY(target, options=options).raise_for_outcome()
        wrong = SANITY(Target(url=url, api_key="guess"), options=few)
    assert wrong.outcome is Outcome.BROKEN
    assert "status 401" in str(wrong.error)


_LONG = {
    "sanity": (SANITY, SanityOptions(pause_s=60.0, skip="answers,recall")),
    "hellaswag": (HELLASWAG, HellaswagOptions()),
    "occupancy": (OCCUPANCY, OccupancyOptions(scrape_interval_s=0.05)),
}


@pytest.mark.parametrize(
    ("mortal", "name"),
    [("hash", "sanity"), ("tiny", "hellaswag"), ("tiny", "occupancy")],
    indirect=["mortal"],
)
def test_a_server_that_dies_in_the_middle_is_said_to_have_died(mortal, name):
    target, process = mortal
    kit, options = _LONG[name]
    progress = _KillsWhenBusy(process.pid, at=2)
    report: KitReport = kit(target, options=options, progress=progress)
    assert progress.killed
    assert report.outcome is Outcome.BROKEN
    assert report.error is not None
    assert report.error.code == "engine-died"
    assert f"the server at {target.url} died" in str(report.error)
    assert exit_status([report]) is KitExit.BROKEN


class _KillsWhenBusy:
    """Kills every process below the server once a kit has told so often that it goes on."""

    def __init__(self, pid: int, *, at: int) -> None:
        self._pid = pid
        self._at = at
        self.killed = False

    def begin(self, what: str, total: float | None) -> None:
        pass

    def done(self, amount: float) -> None:
        if amount >= self._at and not self.killed:
            self.killed = True
            for pid in descendants(self._pid):
                os.kill(pid, signal.SIGKILL)


@pytest.mark.parametrize("mortal", ["hash"], indirect=True)
def test_a_server_that_hangs_ends_a_kit_after_the_time_of_one_request(mortal):
    target, process = mortal
    stopped = [pid for pid in descendants(process.pid)]
    for pid in stopped:
        os.kill(pid, signal.SIGSTOP)
    try:
        report = SANITY(Target(url=target.url, timeout_s=0.5))
    finally:
        for pid in stopped:
            os.kill(pid, signal.SIGCONT)
    assert report.outcome is Outcome.BROKEN
    assert "was not answered within 0.5 s" in str(report.error)


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ([], "started without enable_metrics=True"),
        (["--enable-metrics"], "SGLANG_ENABLE_METRICS_DEVICE_TIMER=1"),
    ],
)
def test_each_flag_of_occupancy_is_named_when_it_is_missing(flags, said):
    url = free_url()
    process = popen_launch_server("hash", url, backend="reference", other_args=flags)
    try:
        report = OCCUPANCY(Target(url=url), options=OccupancyOptions())
    finally:
        kill_process_tree(process.pid)
    assert report.outcome is Outcome.FAILED
    (check,) = report.checks
    assert said in check.message
    assert "not known" in check.message
    assert "median" not in report.figures
