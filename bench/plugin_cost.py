"""What the pytest plugin costs a test run that has no scripted test in it."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final

SAMPLES: Final = 5
PAIRS: Final = 6
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
    """Milliseconds of processor time more with the plugin, over a file without tests.

    A sample is the difference of the shortest of six runs with it and the shortest of six without,
    taken in turn. Such a run is one thread that computes: on a quiet machine its processor time is
    its wall time, and what else a busy one does can only make it longer.
    """
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "test_empty.py").write_text("", encoding="utf-8")
        for options in ((), _NO_PLUGIN):
            _cpu_seconds(folder, options)  # compiles what it imports
        return [_sample(folder) * 1e3 for _ in range(SAMPLES)]


def _sample(folder: str) -> float:
    pairs = [(_cpu_seconds(folder, ()), _cpu_seconds(folder, _NO_PLUGIN)) for _ in range(PAIRS)]
    return min(with_it for with_it, _ in pairs) - min(without for _, without in pairs)


def _cpu_seconds(folder: str, options: tuple[str, ...]) -> float:
    command = [sys.executable, "-c", _RUN, "--collect-only", "-q", "-p", "no:cacheprovider"]
    done = subprocess.run([*command, *options, folder], capture_output=True, cwd=folder, text=True)
    if done.returncode != _NO_TESTS_COLLECTED:
        raise RuntimeError(f"pytest exited with {done.returncode}: {done.stdout}{done.stderr}")
    return float(done.stdout.splitlines()[-1])
