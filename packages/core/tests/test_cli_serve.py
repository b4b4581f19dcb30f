"""`scripted serve` with a server in processes of its own: start, stop, and what goes wrong."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from scripted_core.sessions.processes import proc_state
from scripted_registry.ci import register_cpu_ci

register_cpu_ci(est_time=25, stage="unit", runner_config="cpu")

TESTS = Path(__file__).parent
START = "import fake_engines_plugin; from scripted_core.cli import main; main()"


def serve(folder: Path, *options: str) -> subprocess.Popen[str]:
    ours = {
        "PYTHONPATH": str(TESTS),
        "FAKE_ENGINE_PROGRAM": str(TESTS / "fake_engine_program.py"),
    }
    return subprocess.Popen(
        [sys.executable, "-c", START, "serve", *options],
        env={**os.environ, **ours},
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.fixture
def served(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    one = serve(tmp_path, "--backend", "fake", "--port", "0", "--json")
    yield one
    if one.poll() is None:
        one.kill()
    one.communicate()


def ready(one: subprocess.Popen[str]) -> dict[str, object]:
    assert one.stdout is not None
    line = one.stdout.readline()
    assert line, one.communicate()[1]
    return dict(json.loads(line))


def lives(pid: int) -> bool:
    return not proc_state(pid).startswith(("gone", "Z"))


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_it_serves_until_it_is_told_to_stop(
    served: subprocess.Popen[str], sent: signal.Signals
) -> None:
    report = ready(served)
    assert report["engine"] == "fake"
    assert report["pid"] == served.pid
    with urllib.request.urlopen(f"{report['url']}/health", timeout=10) as answer:
        assert answer.status == 200
    pids = report["engine_pids"]
    assert isinstance(pids, dict)
    assert pids
    assert all(map(lives, pids.values()))
    served.send_signal(sent)
    _, err = served.communicate(timeout=30)
    assert served.returncode == 0, err
    assert "Traceback" not in err
    assert not any(map(lives, pids.values()))
    assert not Path(str(report["log"])).parent.exists()


def test_an_engine_that_ends_by_itself_is_an_error(served: subprocess.Popen[str]) -> None:
    report = ready(served)
    pids = report["engine_pids"]
    assert isinstance(pids, dict)
    os.kill(pids["worker"], signal.SIGKILL)
    _, err = served.communicate(timeout=30)
    assert served.returncode == 1
    assert f"worker (pid {pids['worker']})" in err
    assert "Traceback" not in err
    assert not any(map(lives, pids.values()))


def test_a_person_is_told_the_url_and_how_to_ask(tmp_path: Path) -> None:
    one = serve(tmp_path, "--backend", "fake", "--port", "0")
    assert one.stdout is not None
    lines = [one.stdout.readline() for _ in range(7)]
    one.send_signal(signal.SIGINT)
    one.communicate(timeout=30)
    assert lines[0].startswith("fake takes requests at http://127.0.0.1:")
    assert "curl http://127.0.0.1:" in lines[2]
    assert lines[6] == f"stop: Ctrl-C, or kill {one.pid}\n"


def test_mistakes_are_messages_with_a_hint(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        for options, message, hint in (
            (["--backend", "fake", "--port", str(port)], f"port {port} on 127.0.0.1", "--port 0"),
            (["--backend", "local"], "does not run server", "in_process"),
            (["--backend", "fakke"], "fakke", "fake"),
            (
                ["--backend", "fake", "--host", "203.0.113.9", "--port", "0"],
                "203.0.113.9",
                "--host",
            ),
            (["--backend", "fake", "--engine-arg", "port=1"], "port", "--port"),
        ):
            one = serve(tmp_path, *options)
            _, err = one.communicate(timeout=30)
            assert one.returncode == 2, (options, err)
            assert err.startswith("error: ")
            assert message in err
            assert hint in err
            assert "Traceback" not in err
