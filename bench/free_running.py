"""SGLang that serves requests and runs no script: with the hook attached, and as if we were not there.

Both servers are up at once, and take the same load in turn; only one runs at a time. The plain one has
the plugin installed and our variable unset, which is how a server in production has it.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import re
import statistics
import subprocess
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Self

from scripted_core.sessions import ScriptedHttpServer
from scripted_core.sessions.base import make_config
from scripted_sglang.launch import server_argv, server_env
from scripted_sglang.server import server_launch

from bench.servers import cpu_s, hold_still, kill_group, let_go_on, running, scheduler_of

PROMPT_LEN: Final = 64
_FIRST_TOKEN: Final = 10
_START_TIMEOUT_S: Final = 300.0
_REQUEST_TIMEOUT_S: Final = 300.0
_SCRAPE_INTERVAL_S: Final = 0.1
_OCCUPANCY = re.compile(r"^sglang:fwd_occupancy(?:\{[^}]*\})?\s+(\S+)", re.MULTILINE)
_LOG_LINES: Final = 20


class ServerFailed(RuntimeError):
    """A plain server did not start; the message has the end of its log."""


@dataclass
class FreeServer:
    """A running server that takes requests over HTTP."""

    name: str
    base_url: str
    group: int
    scheduler: int = field(init=False)

    def __post_init__(self) -> None:
        self.scheduler = scheduler_of(self.group)


@dataclass(frozen=True)
class Load:
    """Requests that arrive at once, and decode as many tokens each."""

    requests: int
    new_tokens: int

    def body(self) -> bytes:
        """The one HTTP request that carries them."""
        prompts = [[_FIRST_TOKEN + number] * PROMPT_LEN for number in range(self.requests)]
        sampling = {"max_new_tokens": self.new_tokens, "ignore_eos": True, "temperature": 0}
        return json.dumps({"input_ids": prompts, "sampling_params": sampling}).encode()


@dataclass
class Interval:
    """One load on one server."""

    tokens_per_s: float
    scheduler_us_per_step: float
    occupancy: list[float]


@dataclass
class Comparison:
    """Intervals of both servers in pairs, in the order in which they were measured."""

    plain: list[Interval] = field(default_factory=list)
    hooked: list[Interval] = field(default_factory=list)

    def throughput_ratios(self) -> list[float]:
        """Tokens a second with the hook as a fraction of those without, one for each pair."""
        return [
            ours.tokens_per_s / other.tokens_per_s
            for ours, other in zip(self.hooked, self.plain, strict=True)
        ]

    def cpu_ratios(self) -> list[float]:
        """Processor time of the scheduler a step, with the hook to without, for each pair."""
        return [
            ours.scheduler_us_per_step / other.scheduler_us_per_step
            for ours, other in zip(self.hooked, self.plain, strict=True)
        ]


@contextlib.contextmanager
def plain_server(
    kwargs: Mapping[str, Any], *, folder: Path, env: Mapping[str, str]
) -> Iterator[Callable[[], FreeServer]]:
    """A server as anybody would start it, with the same arguments and stand-ins.

    It is starting when the block begins; what the block is given waits until it has started.
    """
    on_cpu = kwargs.get("device") == "cpu"
    # Only for a port that is free, and that every release takes.
    port = server_launch(make_config("sglang", {})).port
    argv = server_argv(kwargs, host="127.0.0.1", port=port)
    log = folder / "plain.log"
    inherited = {name: v for name, v in os.environ.items() if not name.startswith("SCRIPTED_")}
    with log.open("wb") as sink:
        process = subprocess.Popen(
            argv,
            env={**inherited, **server_env(cpu=on_cpu), **env},
            stdout=sink,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    def wait() -> FreeServer:
        base_url = f"http://127.0.0.1:{port}"
        _await_ready(process, base_url, log)
        return FreeServer("without the hook", base_url, process.pid)

    try:
        yield wait
    finally:
        kill_group(process.pid)
        process.wait()


@contextlib.contextmanager
def hooked_server(kwargs: Mapping[str, Any], *, env: Mapping[str, str]) -> Iterator[FreeServer]:
    """A server of a session of ours that is given no script."""
    with _environment(env):
        server = ScriptedHttpServer.start(backend="sglang", **kwargs)
    try:
        yield FreeServer("with the hook", server.base_url, server.main_pid)
    finally:
        let_go_on(server.main_pid)
        server.shutdown()


def compare_free_running(
    plain: FreeServer, hooked: FreeServer, *, load: Load, pairs: int, occupancy: bool = False
) -> Comparison:
    """Put the load on both in turn, each first in every other pair; both are held still before."""
    found = Comparison()
    for number in range(-1, pairs):
        order = (plain, hooked) if number % 2 == 0 else (hooked, plain)
        for server in order:
            with running(server.group):
                interval = _under_load(server, load, occupancy=occupancy)
            if number >= 0:  # the first pair warms both
                (found.plain if server is plain else found.hooked).append(interval)
    return found


def _under_load(server: FreeServer, load: Load, *, occupancy: bool) -> Interval:
    post(server.base_url, Load(1, 4))  # it has been held still, and is awake after this
    with _Scraper(server.base_url if occupancy else None) as scraper:
        spent, start = cpu_s(server.scheduler), time.perf_counter()
        post(server.base_url, load)
        elapsed = time.perf_counter() - start
        spent = cpu_s(server.scheduler) - spent
    return Interval(
        tokens_per_s=load.requests * load.new_tokens / elapsed,
        scheduler_us_per_step=spent / load.new_tokens * 1e6,
        occupancy=scraper.seen,
    )


def post(base_url: str, load: Load) -> None:
    """Send the load and wait for all of its answers; ``RuntimeError`` for one that is too short."""
    request = urllib.request.Request(
        f"{base_url}/generate", data=load.body(), headers={"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=_REQUEST_TIMEOUT_S) as response:
        answers = json.loads(response.read())
    lengths = {answer["meta_info"]["completion_tokens"] for answer in answers}
    if lengths != {load.new_tokens} or len(answers) != load.requests:
        raise RuntimeError(f"{load} was answered with {len(answers)} answers of {lengths} tokens")


class _Scraper:
    """Reads the gauge of forward occupancy while a load runs; SGLang blanks it between windows."""

    def __init__(self, base_url: str | None) -> None:
        self.seen: list[float] = []
        self._url = None if base_url is None else f"{base_url}/metrics"
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._read)

    def __enter__(self) -> Self:
        if self._url is not None:
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        if self._url is not None:
            self._thread.join()

    def _read(self) -> None:
        assert self._url is not None
        while not self._over.wait(_SCRAPE_INTERVAL_S):
            with contextlib.suppress(OSError, ValueError):
                with urllib.request.urlopen(self._url, timeout=5) as response:
                    text = response.read().decode()
                values = [float(value) for value in _OCCUPANCY.findall(text)]
                self.seen += [value for value in values if not math.isnan(value)]


def median_of(intervals: Sequence[Interval], what: str) -> float | None:
    """The median of a figure over intervals; ``None`` where it was never seen."""
    values: list[float] = []
    for interval in intervals:
        value = getattr(interval, what)
        values += value if isinstance(value, list) else [value]
    return statistics.median(values) if values else None


def _await_ready(process: subprocess.Popen[bytes], base_url: str, log: Path) -> None:
    end = time.monotonic() + _START_TIMEOUT_S
    while time.monotonic() < end and process.poll() is None:
        try:
            with urllib.request.urlopen(f"{base_url}/model_info", timeout=5):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.2)  # another process's port: nothing to wait on
    tail = log.read_text(errors="replace").splitlines()[-_LOG_LINES:]
    raise ServerFailed("\n".join(["a plain server did not start:", *tail]))


@contextlib.contextmanager
def _environment(env: Mapping[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in env}
    os.environ.update(env)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


@contextlib.contextmanager
def both_servers(
    kwargs: Mapping[str, Any], *, folder: Path, env: Mapping[str, str] | None = None
) -> Iterator[tuple[FreeServer, FreeServer]]:
    """A plain server and one with the hook, started side by side, both held still."""
    folder.mkdir(parents=True, exist_ok=True)
    with (
        plain_server(kwargs, folder=folder, env=env or {}) as plain_started,
        hooked_server(kwargs, env=env or {}) as hooked,
    ):
        plain = plain_started()
        for server in (plain, hooked):
            post(server.base_url, Load(2, 8))
            hold_still(server.group)
        yield plain, hooked
