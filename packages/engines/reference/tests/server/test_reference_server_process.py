"""The server as a program of its own: signals, a second one on its port, a full disk, an exception."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from urllib.error import HTTPError, URLError

import pytest
from scripted_core.free_ports import free_port
from scripted_core.sessions.processes import descendants, still_running
from scripted_registry.ci import register_cpu_ci

register_cpu_ci(est_time=35, stage="reference", runner_config="cpu")

_QUICK_S = 2.0


def _gone(pids):
    return not still_running(pids)


def _await(condition, *, timeout_s=5.0):
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "it did not come about"
        time.sleep(0.01)  # another process's doing: nothing to wait on


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_ends_it_in_order_while_clients_wait(start_server, number):
    server = start_server()
    pids = server.pids.values()
    assert server.call("/pause_generation", {"mode": "in_place"})[0] == 200
    answers = []
    client = threading.Thread(
        target=lambda: answers.append(server.call("/generate", {"text": "a"}))
    )
    client.start()
    _await(lambda: server.state()["num_waiting"] == 1)
    begun = time.monotonic()
    code, said = server.end(number)
    assert time.monotonic() - begun < _QUICK_S
    client.join(timeout=5)
    assert (code, said) == (0, "")
    assert _gone(pids)
    ((status, reply),) = answers
    assert (status, reply["error"]["message"]) == (503, "the server is stopping")


def test_a_front_that_is_killed_takes_the_scheduler_with_it_and_leaves_no_folder(
    start_server, tmp_path
):
    server = start_server()
    pids = list(server.pids.values())
    os.kill(pids[0], signal.SIGKILL)
    _await(lambda: _gone(pids))
    assert list(tmp_path.iterdir()) == []


def test_a_scheduler_that_is_killed_ends_the_front_which_says_so(start_server):
    server = start_server()
    pid = server.pids["scheduler"]
    os.kill(pid, signal.SIGKILL)
    server.process.wait(timeout=5)
    code, said = server.end()
    assert code == 1
    assert f"the scheduler process (pid {pid}) was killed by SIGKILL" in said
    assert "Traceback" not in said


def test_a_scheduler_that_is_stopped_does_not_hold_up_the_end(start_server):
    server = start_server()
    os.kill(server.pids["scheduler"], signal.SIGSTOP)
    assert server.call("/health")[0] == 200
    begun = time.monotonic()
    assert server.end() == (0, "")
    assert time.monotonic() - begun < _QUICK_S


def test_two_servers_on_one_port(start_server):
    first = start_server()
    port = first.url.rpartition(":")[2]
    second = subprocess.run(
        [sys.executable, "-P", "-m", "scripted_reference.server", "--port", port],
        capture_output=True,
        text=True,
        timeout=10,
    )
    assert second.returncode == 1
    assert f"cannot serve on 127.0.0.1 port {port}" in second.stderr
    assert "Address already in use" in second.stderr
    assert "Traceback" not in second.stderr
    assert first.call("/health")[0] == 200


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ("{", "--engine-kwargs-json"),
        ("[]", "holds a list"),
        ('{"page_sice": 16}', "did you mean 'page_size'"),
        ('{"model_path": "/no/such/model"}', "/no/such/model"),
    ],
)
def test_arguments_that_are_wrong_are_refused_in_words(kwargs, message):
    ended = subprocess.run(
        [
            *(sys.executable, "-P", "-m", "scripted_reference.server", "--port", "0"),
            *("--engine-kwargs-json", "-"),
        ],
        input=kwargs,
        capture_output=True,
        text=True,
        timeout=10,
    )
    assert ended.returncode == 1
    assert message in ended.stderr
    assert "Traceback" not in ended.stderr


def test_a_full_disk_costs_log_lines_and_not_the_server(tmp_path):
    port = free_port()
    with open("/dev/full", "w") as full:
        server = subprocess.Popen(
            [sys.executable, "-P", "-m", "scripted_reference.server", "--port", str(port)],
            stdin=subprocess.DEVNULL,
            stdout=full,
            stderr=full,
            env={**os.environ, "TMPDIR": str(tmp_path)},
        )
    try:
        url = f"http://127.0.0.1:{port}/health_generate"

        def answers():
            try:
                with urllib.request.urlopen(url, timeout=5) as response:
                    return response.status == 200
            except HTTPError:
                raise
            except URLError:
                return False

        _await(answers, timeout_s=30)
        pids = [server.pid, *descendants(server.pid)]
        server.terminate()
        assert server.wait(timeout=5) == 0
        assert _gone(pids)
    finally:
        server.kill()
