"""The start of a server: signals that come early, addresses and folders that cannot be had."""

from __future__ import annotations

import contextlib
import gzip
import os
import signal
import socket
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from scripted_core.errors import ConfigError, EngineStartError
from scripted_reference.server import front_process
from scripted_reference.server.arguments import arguments_as_json
from scripted_reference.server.launch import server_launch
from scripted_registry import EngineConfig, EngineMode
from scripted_registry.ci import register_cpu_ci

register_cpu_ci(est_time=15, stage="reference", runner_config="cpu")

_MODULE = "scripted_reference.server"


def _start(tmp_path, *arguments, **environ):
    return subprocess.Popen(
        [sys.executable, "-P", "-m", _MODULE, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "TMPDIR": str(tmp_path), **environ},
        start_new_session=True,
    )


_SIGNAL_ONCE_IMPORTED = """
import os, signal, sys
class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == {module!r} and {role!r} in sys.orig_argv:
            os.{kill}(0 if "{kill}" == "killpg" else os.getpid(), {number})
sys.meta_path.insert(0, Finder())
"""


@pytest.mark.parametrize(
    ("kill", "number"),
    [("kill", signal.SIGTERM), ("killpg", signal.SIGINT), ("killpg", signal.SIGHUP)],
)
@pytest.mark.parametrize(
    "module",
    [
        f"{_MODULE}.front_process",
        f"{_MODULE}.args",
        f"{_MODULE}.child",
        f"{_MODULE}.front",
        "aiohttp",
    ],
)
def test_a_signal_before_it_serves_ends_it_in_order(module, kill, number, tmp_path):
    code = _SIGNAL_ONCE_IMPORTED.format(module=module, role=_MODULE, kill=kill, number=int(number))
    if module.endswith(".args"):
        code = code.replace(f"{_MODULE}.args", "scripted_reference.args")
    (tmp_path / "sitecustomize.py").write_text(code)
    folder = tmp_path / "t"
    folder.mkdir()
    server = _start(folder, "--port", "0", PYTHONPATH=str(tmp_path))
    try:
        said, complaints = server.communicate(timeout=10)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(server.pid, signal.SIGKILL)
    assert (server.returncode, said, complaints) == (0, "", "")
    assert list(folder.iterdir()) == []


def test_of_two_servers_that_bind_one_port_the_later_is_told_so(tmp_path):
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        other.bind(("127.0.0.1", 0))
        port = other.getsockname()[1]
        # It begins to listen when the server has bound the same port, and not yet listened.
        (tmp_path / "sitecustomize.py").write_text(
            "import sys\n"
            "class Finder:\n"
            "    def find_spec(self, name, path=None, target=None):\n"
            f"        if name == '{_MODULE}.front':\n"
            "            print('bound', flush=True)\n"
            "            sys.stdin.readline()\n"
            "sys.meta_path.insert(0, Finder())\n"
        )
        server = subprocess.Popen(
            [sys.executable, "-P", "-m", _MODULE, "--port", str(port)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(tmp_path)},
        )
        assert server.stdout is not None
        try:
            assert server.stdout.readline() == "bound\n"
            other.listen()
            _, complaints = server.communicate("\n", timeout=10)
        finally:
            server.kill()
    assert server.returncode == 1
    assert f"cannot serve on 127.0.0.1 port {port}" in complaints
    assert "end the server that has it" in complaints
    assert "Traceback" not in complaints


def test_a_long_path_for_temporary_files_is_not_used(tmp_path, monkeypatch):
    long = tmp_path / ("x" * 100)
    long.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(long))
    monkeypatch.setattr(front_process, "_SHORT_PATHS", ())
    with pytest.raises(ConfigError, match="TMPDIR"):
        front_process._private_folder()
    assert list(long.iterdir()) == []
    monkeypatch.undo()
    server = _start(long, "--port", "0")
    try:
        assert server.stdout is not None
        assert server.stdout.readline().startswith("serving ")
        server.terminate()
        assert server.communicate(timeout=10)[1] == ""
    finally:
        server.kill()
    assert server.returncode == 0


def test_text_that_is_no_unicode_is_refused_by_name(tmp_path):
    file = Path(tmp_path / "kwargs.json")
    file.write_text('{"served_model_name": "a\\ud800"}')
    server = _start(tmp_path, "--port", "0", "--engine-kwargs-json", str(file))
    _, complaints = server.communicate(timeout=10)
    assert server.returncode == 1
    assert "engine argument 'served_model_name'='a\\ud800' is no Unicode text" in complaints
    assert "Traceback" not in complaints
    with pytest.raises(ConfigError, match="lora_paths"):
        arguments_as_json({"lora_paths": {"\udcff": "x"}})


def _launch(**kwargs):
    config = EngineConfig(engine="reference", kwargs=kwargs, mode=EngineMode.SERVER)
    return server_launch(config)


def test_a_model_folder_that_is_not_there_is_refused_before_anything_starts(tmp_path):
    with pytest.raises(ConfigError, match="no-model"):
        _launch(model_path=str(tmp_path / "no-model"))


def test_the_reason_why_a_port_cannot_be_had_is_the_real_one():
    with pytest.raises(ConfigError, match=r"no-such-host\.invalid.*"):
        _launch(host="no-such-host.invalid")
    with pytest.raises(ConfigError, match=r"cannot serve on 192\.0\.2\.1 port 0"):
        _launch(host="192.0.2.1")  # an address that is nobody's
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(EngineStartError, match=f"port {port} on 127.0.0.1 is taken"):
            _launch(port=port)


@pytest.mark.skipif(not Path("/proc/net/if_inet6").exists(), reason="this machine has no IPv6")
def test_an_address_of_ipv6_has_free_ports():
    assert _launch(host="::1").port > 0


def test_a_body_that_is_not_compressed_as_it_says_is_the_clients_mistake(server):
    def answer(data):
        request = urllib.request.Request(
            f"{server.url}/generate", data=data, headers={"Content-Encoding": "gzip"}
        )
        try:
            with urllib.request.urlopen(request, timeout=10) as response:
                return response.status
        except urllib.error.HTTPError as error:
            with error:
                return error.code

    assert answer(b"no gzip at all") == 400
    body = gzip.compress(b'{"input_ids": [1, 2], "sampling_params": {"max_new_tokens": 1}}')
    assert answer(body) == 200
    assert answer(body[:-12] + b"\xff" * 12) == 400
