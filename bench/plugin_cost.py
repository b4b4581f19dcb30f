"""What the pytest plugin costs a test run that has no scripted test in it."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final

RUNS: Final = 15
_NO_PLUGIN: Final = ("-p", "no:scripted")
_NO_TESTS_COLLECTED: Final = 5
_RUN: Final = """
import sys, time
start = time.thread_time()
import pytest
code = pytest.main(sys.argv[1:])
print(time.thread_time() - start)
sys.exit(code)
"""


def plugin_cost() -> list[float]:
    """Milliseconds of processor time more with the plugin, for each pair of runs over no tests.

    Such a run is one thread that computes, so that on a quiet machine processor time is wall time; what
    else the machine does shows in it much less. The runs of a pair follow one another, the one with
    the plugin first in every other pair.
    """
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "test_empty.py").write_text("", encoding="utf-8")
        orders: list[tuple[tuple[str, ...], ...]] = [((), _NO_PLUGIN), (_NO_PLUGIN, ())]
        differences = []
        for run in range(RUNS + 1):
            seconds = {options: _cpu_seconds(folder, options) for options in orders[run % 2]}
            differences.append(seconds[()] - seconds[_NO_PLUGIN])
    # The first pair may have compiled what it imported.
    return [difference * 1e3 for difference in differences[1:]]


def _cpu_seconds(folder: str, options: tuple[str, ...]) -> float:
    command = [sys.executable, "-c", _RUN, "--collect-only", "-q", "-p", "no:cacheprovider"]
    done = subprocess.run([*command, *options, folder], capture_output=True, cwd=folder, text=True)
    if done.returncode != _NO_TESTS_COLLECTED:
        raise RuntimeError(f"pytest exited with {done.returncode}: {done.stdout}{done.stderr}")
    return float(done.stdout.splitlines()[-1])
