from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from scripted_core.sessions import ScriptedHttpServer
from scripted_core.sessions.processes import descendants, still_running
from scripted_core.wire.keys import make_keys


class RunningServer:
    """A server of one test or one module, started as a user would from a shell."""

    def __init__(self, *, folder: Path, stderr: int | None = None, **kwargs: Any) -> None:
        environ = {
            name: os.environ[name] for name in os.environ if not name.startswith("SCRIPTED_")
        }
        self.process = subprocess.Popen(
            [
                *(sys.executable, "-P", "-m", "scripted_reference.server", "--port", "0"),
                *("--engine-kwargs-json", "-"),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=stderr if stderr is not None else subprocess.PIPE,
            text=True,
            env={**environ, "TMPDIR": str(folder)},
            start_new_session=True,
        )
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        with self.process.stdin as stdin:
            json.dump(kwargs, stdin)
        self.process.stdin = None
        line = self.process.stdout.readline()
        found = re.fullmatch(r"serving .+ on (http://\S+)\n", line)
        if found is None:
            self.process.kill()
            raise AssertionError(f"no server: {line!r} {self.process.communicate()}")
        self.url = found[1]

    @property
    def pids(self) -> dict[str, int]:
        (scheduler,) = descendants(self.process.pid)
        return {"front": self.process.pid, "scheduler": scheduler}

    def call(
        self, path: str, body: Any = None, *, data: bytes | None = None, timeout_s: float = 20.0
    ) -> tuple[int, Any]:
        """Status and body (JSON if it is that); a POST when there is something to post."""
        if body is not None:
            data = json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data=data)
        try:
            with urllib.request.urlopen(request, timeout=timeout_s) as response:
                status, text = response.status, response.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                status, text = error.code, error.read().decode()
        with contextlib.suppress(ValueError):
            return status, json.loads(text)
        return status, text

    def generate(self, **body: Any) -> Any:
        status, reply = self.call("/generate", body)
        assert status == 200, reply
        return reply

    def events(self, path: str, body: Any) -> list[Any]:
        """The events of a stream, without the one that ends it."""
        status, text = self.call(path, {**body, "stream": True})
        assert status == 200, text
        lines = [line.removeprefix("data: ") for line in text.splitlines() if line]
        assert lines[-1] == "[DONE]"
        return [json.loads(line) for line in lines[:-1]]

    def state(self) -> dict[str, Any]:
        (state,) = self.call("/server_info")[1]["internal_states"]
        return state

    def end(self, number: int = signal.SIGTERM, *, timeout_s: float = 5.0) -> tuple[int, str]:
        """Exit status, and what it had said on stderr."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        try:
            _, said = self.process.communicate(timeout=timeout_s)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
        return self.process.returncode, said or ""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """One server for a module of tests that leave it idle; it has to end in order."""
    folder = tmp_path_factory.mktemp("server")
    started = RunningServer(folder=folder, chunked_prefill_size=64, max_total_tokens=2048)
    yield started
    pids = started.pids.values()
    assert started.end() == (0, "")
    assert still_running(pids) == {}
    assert list(folder.iterdir()) == []


@pytest.fixture
def start_server(tmp_path: Path) -> Iterator[Callable[..., RunningServer]]:
    """Starts servers that are the test's to end."""
    started: list[RunningServer] = []

    def start(**kwargs: Any) -> RunningServer:
        server = RunningServer(folder=tmp_path, **kwargs)
        started.append(server)
        return server

    yield start
    for server in started:
        server.end(signal.SIGKILL)


_START_S = 60.0


class Elsewhere:
    """A server of somebody else's: nothing of it is a child of a session."""

    def __init__(
        self,
        *,
        keys: Path,
        folder: Path,
        listen: str = "tcp://127.0.0.1:0",
        host: str = "127.0.0.1",
        within: tuple[str, ...] = (),
        **env: str,
    ) -> None:
        self.keys = keys
        self.log = folder / "server.log"
        self.temporary = folder / "t"
        self.temporary.mkdir(exist_ok=True)
        environ = {
            **os.environ,
            "SCRIPTED_LISTEN": listen,
            "SCRIPTED_KEY_FILE": str(keys / "engine.key"),
            "TMPDIR": str(self.temporary),
            **env,
        }
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [
                    *(*within, sys.executable, "-P", "-m", "scripted_reference.server"),
                    *("--host", host, "--port", "0"),
                ],
                env=environ,
                stdout=log,
                stderr=log,
                start_new_session=True,
                cwd=folder,
            )

    def said(self, words: str) -> str:
        """What follows ``words`` in the log, once it is there."""
        deadline = time.monotonic() + _START_S
        while time.monotonic() < deadline:
            _, found, rest = self.log.read_text().partition(words)
            if found and "\n" in rest:
                return rest.splitlines()[0].strip()
            if self.process.poll() is not None:
                break
            time.sleep(0.05)
        raise AssertionError(f"it never said {words!r}:\n{self.log.read_text()}")

    @property
    def address(self) -> str:
        return self.said("test clients attach at ")

    @property
    def url(self) -> str:
        return self.said("serving hash on ")

    def attach(self, key: str = "client", **kwargs: Any) -> ScriptedHttpServer:
        return ScriptedHttpServer.attach(self.address, key_file=self.keys / f"{key}.key", **kwargs)

    def end(self, number: signal.Signals = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return self.process.wait(10)


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("keys")
    make_keys(folder)
    return folder


@pytest.fixture
def start_elsewhere(keys: Path, tmp_path: Path) -> Iterator[Callable[..., Elsewhere]]:
    started: list[Elsewhere] = []

    def begin(**kwargs: Any) -> Elsewhere:
        started.append(Elsewhere(keys=keys, folder=tmp_path, **kwargs))
        return started[-1]

    yield begin
    for one in started:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(one.process.pid, signal.SIGKILL)
        one.process.wait()


@pytest.fixture(scope="module")
def elsewhere(keys: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Elsewhere]:
    """One server for all tests that leave it running and free; it has to end in order."""
    server = Elsewhere(keys=keys, folder=tmp_path_factory.mktemp("elsewhere"))
    yield server
    assert server.process.poll() is None, server.log.read_text()
    assert server.end() == 0
    deadline = time.monotonic() + 5
    while list(server.temporary.iterdir()) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert list(server.temporary.iterdir()) == []
