"""What the end of a script means to pytest, the same in this process and over a wire."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from scripted_core.free_ports import free_port
from scripted_registry.ci import register_cpu_ci

register_cpu_ci(est_time=30, stage="reference", runner_config="cpu")

SCRIPTED = str(Path(sys.executable).with_name("scripted"))
BACKENDS = ["reference", "reference:server"]

OUTCOMES = """
import pytest


class Mine(ValueError):
    pass


@pytest.mark.xfail(raises=ValueError, strict=True)
def test_expected_by_a_base_class(t):
    yield
    raise Mine("as expected")


@pytest.mark.xfail(raises=(OSError, Mine))
def test_expected_as_one_of_several(t):
    yield
    raise Mine("as expected")


@pytest.mark.xfail(raises=KeyError)
def test_another_is_not_expected(t):
    yield
    raise Mine("not this one")


@pytest.mark.xfail(raises=AssertionError)
def test_an_assertion_is_expected(t):
    yield
    assert not t


def test_details(t):
    r = t.start_req(prompt_len=20, max_new_tokens=2)
    yield
    found = {"status": str(r.status), "chunks": [1, 2, 3]}
    assert found == {"status": str(r.status), "chunks": [1, 2, 4]}


def test_megabytes(t):
    yield
    text = "x" * 10_000_000
    assert text == "y"
"""

EXIT = """
import pytest


def test_that_ends_the_run(t):
    yield
    pytest.exit("enough is enough", returncode=7)


def test_that_does_not_run(t):
    yield
"""


def run(folder: Path, code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    (folder / "test_them.py").write_text(code)
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-rA", *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


@pytest.mark.parametrize("backend", BACKENDS)
def test_outcomes(tmp_path: Path, backend: str) -> None:
    done = run(tmp_path, OUTCOMES, "--scripted-backend", backend)
    said = dict(
        reversed(line.split(" ", 1))
        for line in re.findall(r"^([A-Z]+ test_them\.py::\w+)", done.stdout, re.MULTILINE)
    )
    outcomes = {name.partition("::test_")[2]: outcome for name, outcome in said.items()}
    assert outcomes == {
        "expected_by_a_base_class": "XFAIL",
        "expected_as_one_of_several": "XFAIL",
        "another_is_not_expected": "FAILED",
        "an_assertion_is_expected": "XFAIL",
        "details": "FAILED",
        "megabytes": "FAILED",
    }
    # The same introspection as in any test.
    assert "Differing items:" in done.stdout
    assert "{'chunks': [1, 2, 3]} != {'chunks': [1, 2, 4]}" in done.stdout
    assert len(done.stdout) < 1_000_000


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_script_can_end_the_run(tmp_path: Path, backend: str) -> None:
    done = run(tmp_path, EXIT, "--scripted-backend", backend)
    assert done.returncode == 7, done.stdout
    assert "Exit: enough is enough" in done.stdout
    assert "test_that_does_not_run" not in done.stdout


ENDLESS = """
import pathlib
def test_endless(t):
    yield
    pathlib.Path(r"{folder}", "running").touch()
    while True:
        yield
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_to_pytest_leaves_no_folder_and_no_process(
    tmp_path: Path, number: signal.Signals
) -> None:
    temporary = tmp_path / "t"
    temporary.mkdir()
    (tmp_path / "test_endless.py").write_text(ENDLESS.format(folder=tmp_path))
    pytest_run = subprocess.Popen(
        [
            *(sys.executable, "-m", "pytest", "-p", "no:cacheprovider"),
            *("--scripted-backend", "reference:server", "test_endless.py"),
        ],
        cwd=tmp_path,
        env={**os.environ, "TMPDIR": str(temporary)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 60
    while not (tmp_path / "running").exists() and time.monotonic() < deadline:
        time.sleep(0.02)  # another program's doing: nothing to wait on
    assert [one.name for one in temporary.glob("scripted-*")] != []
    pytest_run.send_signal(number)
    assert pytest_run.wait(10) != 0
    assert [one.name for one in temporary.glob("scripted-*")] == []


def test_a_closed_pipe_is_no_failed_script(tmp_path: Path) -> None:
    (tmp_path / "script_long.py").write_text(
        "def script_long(t):\n    for _ in range(3000):\n        yield\n"
    )
    shell = f"{SCRIPTED} run script_long.py --view table | head -1; echo status ${{PIPESTATUS[0]}}"
    done = subprocess.run(
        ["bash", "-c", shell], cwd=tmp_path, capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.endswith("status 141\n"), done.stdout + done.stderr


def test_two_servers_on_one_port_do_not_both_say_that_they_serve(tmp_path: Path) -> None:
    port = free_port()
    command = [SCRIPTED, "serve", "--backend", "reference", "--json"]
    servers = [
        subprocess.Popen(
            [*command, "--port", str(port)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    # The loser ends by itself; whoever serves is told to stop then.
    deadline = time.monotonic() + 60
    while all(one.poll() is None for one in servers) and time.monotonic() < deadline:
        time.sleep(0.05)
    for one in servers:
        one.send_signal(signal.SIGTERM)
    said = [one.communicate(timeout=30) for one in servers]
    assert sum('"url"' in out for out, _ in said) == 1, said
