"""What the pytest plugin costs a test run that has no scripted test in it."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Final

RUNS: Final = 15
_NO_PLUGIN: Final = ("-p", "no:scripted")


def plugin_cost() -> list[float]:
    """Milliseconds more with the plugin, for each pair of runs over a file without tests.

    The runs of a pair follow one another, first one first and then the other, so that a machine that
    becomes slower or faster does not tell in favour of one side.
    """
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "test_empty.py").write_text("", encoding="utf-8")
        _seconds(folder)
        _seconds(folder, *_NO_PLUGIN)
        differences = []
        for run in range(RUNS):
            if run % 2:
                without = _seconds(folder, *_NO_PLUGIN)
                differences.append(_seconds(folder) - without)
            else:
                differences.append(_seconds(folder) - _seconds(folder, *_NO_PLUGIN))
    return [difference * 1e3 for difference in differences]


def _seconds(folder: str, *options: str) -> float:
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-p", "no:cacheprovider"]
    start = time.perf_counter()
    # 5: no tests were collected.
    done = subprocess.run([*command, *options, folder], capture_output=True, cwd=folder)
    elapsed = time.perf_counter() - start
    if done.returncode != 5:
        raise RuntimeError(f"pytest exited with {done.returncode}: {done.stdout.decode()}")
    return elapsed
