"""A pytest plugin that writes the outcome of each test as soon as it is known, one JSON line a test.

    SCRIPTED_STAGE_RESULTS=FILE pytest -p gpu_results ...

A report that pytest writes at the end is lost when a run is ended at the end of its time; this is not.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

ENV_RESULTS = "SCRIPTED_STAGE_RESULTS"


class Recorder:
    """Appends a line for each test that has ended, and for each file that could not be collected."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """One phase of a test is over: its call, or a set-up that skipped or failed."""
        if report.when == "call" or report.outcome != "passed":
            self._write(report.nodeid, report.outcome, report)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """A file was collected."""
        if report.failed:
            self._write(report.nodeid, "failed", report)

    def _write(
        self, nodeid: str, outcome: str, report: pytest.TestReport | pytest.CollectReport
    ) -> None:
        line = {
            "test": nodeid,
            "outcome": "xfailed" if hasattr(report, "wasxfail") else outcome,
            "seconds": round(getattr(report, "duration", 0.0), 3),
            "why": _why(report),
        }
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")


def _why(report: pytest.TestReport | pytest.CollectReport) -> str:
    if report.outcome == "passed":
        return ""
    if isinstance(report.longrepr, tuple):
        return str(report.longrepr[2]).removeprefix("Skipped: ")
    return str(report.longrepr or getattr(report, "wasxfail", ""))[-4000:]


def pytest_configure(config: pytest.Config) -> None:
    """Record in the process that sees every report; a worker of xdist is not it."""
    path = os.environ.get(ENV_RESULTS)
    if path and not hasattr(config, "workerinput"):
        config.pluginmanager.register(Recorder(Path(path)), "gpu-results")
