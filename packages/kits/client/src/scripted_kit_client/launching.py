"""`popen_launch_server`: a server for a test class, started as SGLang's own tests start theirs."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from typing import Final
from urllib.parse import urlsplit

from scripted_core.errors import ConfigError, EngineStartError
from scripted_core.free_ports import free_port
from scripted_core.sessions.launch import url_of
from scripted_core.sessions.processes import descendants

DEFAULT_MODEL_NAME_FOR_TEST: Final = "tiny"
"""The trained checkpoint of scripted-models, for any engine."""
DEFAULT_TARGET_MODEL_EAGLE3: Final = "tiny"
DEFAULT_DRAFT_MODEL_EAGLE3: Final = "tiny-draft"
DEFAULT_TIMEOUT_FOR_SERVER_LAUNCH: Final = 300.0
DEFAULT_URL_FOR_TEST: Final = "http://127.0.0.1:21000"

_PROGRAM: Final = "from scripted_core.cli import main; main()"
_STOP_GRACE_S: Final = 10.0
_LAUNCHED: Final[dict[int, subprocess.Popen[str]]] = {}


def popen_launch_server(
    model: str,
    base_url: str,
    *,
    timeout: float = DEFAULT_TIMEOUT_FOR_SERVER_LAUNCH,
    api_key: str | None = None,
    other_args: Sequence[object] = (),
    env: Mapping[str, str] | None = None,
    backend: str | None = None,
) -> subprocess.Popen[str]:
    """Start an engine as a server at `base_url`, and return once it takes requests.

    `other_args` are flags of SGLang's command line, `env` is added to this process's environment.
    `backend` is the engine; by default `$SCRIPTED_BACKEND`, or the embedded one. End it with
    `kill_process_tree(process.pid)`.

    Raises `EngineStartError` when it ends first or is not ready within `timeout` seconds.
    """
    where = urlsplit(base_url)
    if where.hostname is None or where.port is None:
        raise ConfigError(f"{base_url!r} has no port", hint=f"give it as {DEFAULT_URL_FOR_TEST}")
    command = [sys.executable, "-c", _PROGRAM, "serve", "--json"]
    command += ["--host", where.hostname, "--port", str(where.port)]
    if backend is not None:
        command += ["--backend", backend]
    arguments = {"model_path": json.dumps(model), **engine_arguments(other_args)}
    if api_key is not None:
        arguments["api_key"] = json.dumps(api_key)
    for name, value in arguments.items():
        command += ["--engine-arg", f"{name}={value}"]
    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as said:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=said,
            text=True,
            env={**os.environ, **(env or {})},
        )
        _LAUNCHED[process.pid] = process
        if not _is_ready(process, timeout):
            ended = process.poll()
            kill_process_tree(process.pid)
            said.seek(0)
            how = f"was not ready within {timeout:g} s" if ended is None else "did not start"
            raise EngineStartError(f"the server for {base_url} {how}\n{said.read().strip()}")
    return process


def free_url(host: str = "127.0.0.1") -> str:
    """A URL for `popen_launch_server`, with a port that nobody listens on.

    It is below those that the system gives to outgoing connections, so that none of them takes it before
    the server does.
    """
    return url_of(host, free_port(host))


def engine_arguments(flags: Sequence[object]) -> dict[str, str]:
    """Flags of SGLang's command line as engine arguments by name, their values as JSON or text.

    `["--enable-metrics", "--page-size", "16"]` becomes `{"enable_metrics": "true", "page_size": "16"}`.
    """
    found: dict[str, list[str]] = {}
    last: list[str] | None = None
    for flag in map(str, flags):
        if flag.startswith("--"):
            name, equals, value = flag.removeprefix("--").partition("=")
            last = found.setdefault(name.replace("-", "_"), [])
            if equals:
                last.append(value)
        elif last is None:
            raise ConfigError(f"{flag!r} stands behind no flag", hint="begin with --NAME")
        else:
            last.append(flag)
    return {name: _argument(values) for name, values in found.items()}


def kill_process_tree(pid: int) -> None:
    """End a server that `popen_launch_server` started, and everything that it started."""
    process = _LAUNCHED.pop(pid, None)
    below = descendants(pid)
    if process is None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)
        return
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(_STOP_GRACE_S)
        except subprocess.TimeoutExpired:
            for one in below:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(one, signal.SIGKILL)
            process.kill()
            process.wait()
    if process.stdout is not None:
        process.stdout.close()


def _argument(values: Sequence[str]) -> str:
    if not values:
        return "true"
    return values[0] if len(values) == 1 else json.dumps(list(values))


def _is_ready(process: subprocess.Popen[str], timeout_s: float) -> bool:
    """Wait for the line that `scripted serve --json` writes; it also ends when the process does."""
    assert process.stdout is not None, "asked for with PIPE"
    deadline = time.monotonic() + timeout_s
    left_s = timeout_s
    while left_s > 0:
        if select.select([process.stdout], [], [], left_s)[0]:
            return bool(process.stdout.readline())
        left_s = deadline - time.monotonic()
    return False
