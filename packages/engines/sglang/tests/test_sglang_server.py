"""A real server: how it refuses, how it is told from one without our hooks, and foreign traffic."""

from __future__ import annotations

import dataclasses
import json
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from scripted_core.errors import ConfigError, EngineStartError, HandshakeError
from scripted_core.sessions.base import make_config
from scripted_core.sessions.http_server import ScriptedHttpServer
from scripted_core.sessions.launch import ServerLaunch
from scripted_core.sessions.processes import group_members, still_running
from scripted_core.wire.address import ENV_WIRE
from scripted_registry import EngineConfig, get_plugin_manager, hookimpl
from scripted_registry.ci import register_cpu_ci
from scripted_sglang import launch
from scripted_sglang.server import load_files, server_launch

register_cpu_ci(est_time=110, stage="single-sglang", runner_config="cpu")

pytestmark = pytest.mark.skipif(
    launch.check_usable() is not None,
    reason=f"needs the capability 'an installed SGLang': {launch.check_usable()}",
)


def _start(**kwargs: Any) -> ScriptedHttpServer:
    return ScriptedHttpServer.start(backend="sglang", **kwargs)


# -- refused -------------------------------------------------------------------------------------


def test_an_unknown_argument_is_refused_before_any_start() -> None:
    begun = time.monotonic()
    with pytest.raises(ConfigError, match="has no argument 'chunked_prefil_size'") as caught:
        _start(chunked_prefil_size=64)
    assert caught.value.hint == "did you mean 'chunked_prefill_size'?"
    assert time.monotonic() - begun < 5


@pytest.mark.parametrize(
    ("kwargs", "words"),
    [
        ({"dtype": "float7"}, "invalid choice: 'float7'"),
        ({"model_path": "/no/such/model"}, "/no/such/model"),
    ],
)
def test_what_sglang_refuses_comes_in_its_own_words(kwargs: dict[str, Any], words: str) -> None:
    with pytest.raises(EngineStartError, match="SGLang says: ") as caught:
        _start(**kwargs)
    said = str(caught.value).partition("log tail")[0]
    assert words in said
    assert "main (pid" in said


# -- swallowed -----------------------------------------------------------------------------------


class _WithoutOurPlugin:
    """A setting of the engine's that leaves our plugin out."""

    SCRIPTED_API = 1

    @hookimpl(tryfirst=True)
    def scripted_make_engine(self, config: EngineConfig) -> ServerLaunch | None:
        if config.engine != "sglang":
            return None
        made = server_launch(config)
        return dataclasses.replace(made, env={**made.env, "SGLANG_PLUGINS": "somebody-elses"})


@pytest.fixture
def swallowed() -> Iterator[None]:
    plugins = get_plugin_manager()
    plugin = _WithoutOurPlugin()
    plugins.register(plugin, name="without-our-plugin")
    yield
    plugins.unregister(plugin)


@pytest.mark.usefixtures("swallowed")
def test_a_server_without_our_hooks_is_told_apart_soon() -> None:
    # At the end of its time it would be an EngineStartError.
    with pytest.raises(HandshakeError, match="our plugin was swallowed") as caught:
        _start()
    assert "log tail" in str(caught.value)
    assert caught.value.hint


# -- beside scripts ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def server() -> Iterator[ScriptedHttpServer]:
    config = make_config("sglang", {"chunked_prefill_size": 64})
    started = ScriptedHttpServer.from_config(config)
    everybody = group_members(started.main_pid)
    folder = _session_folder(started.main_pid)
    published = load_files(everybody)
    assert len(published) == 1, "SGLang publishes its load elsewhere by now"
    assert any(path.is_socket() for path in folder.glob("tmp*")), "TMPDIR has no effect any more"
    yield started
    assert started.dirty is None
    begun = time.monotonic()
    started.shutdown()
    assert time.monotonic() - begun < 5
    assert still_running(everybody) == {}
    assert not any(path.exists() for path in published)
    assert not folder.exists()


def _session_folder(pid: int) -> Path:
    variables = Path(f"/proc/{pid}/environ").read_bytes().decode().split("\0")
    return Path(dict(entry.partition("=")[::2] for entry in variables)[ENV_WIRE])


def _get(url: str) -> int:
    with urllib.request.urlopen(url, timeout=30) as response:
        return int(response.status)


def _generate(base_url: str, answers: list[Any]) -> None:
    body = {"input_ids": [5, 6, 7], "sampling_params": {"max_new_tokens": 3, "ignore_eos": True}}
    request = urllib.request.Request(
        f"{base_url}/generate",
        data=json.dumps(body).encode(),
        headers={"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=60) as response:
        answers.append((response.status, json.loads(response.read())))


def _script_that_meets_a_stranger(t: Any, running: Path, arrived: Path) -> Any:
    r = t.start_req(prompt_len=100, max_new_tokens=200, ignore_eos=True)
    yield
    running.touch()
    # It takes as long as it takes: until the stranger's request has reached the inbox.
    deadline = time.monotonic() + 30
    while not t.engine.proxy.parked:
        assert time.monotonic() < deadline, "the foreign request never came"
        assert {req.rid for req in t.engine.requests()} <= {r.rid}
        yield
    for _ in range(100):
        assert {req.rid for req in t.engine.requests()} <= {r.rid}
        yield
    t.abort(r)
    while not r.finished:
        yield
    for _ in range(100):
        assert t.engine.requests() == []
        yield
    assert t.engine.proxy.parked
    arrived.touch()


def test_foreign_requests_wait_for_the_end_of_the_script(
    server: ScriptedHttpServer, tmp_path: Path
) -> None:
    running, arrived = tmp_path / "running", tmp_path / "arrived"
    answers: list[Any] = []
    too_early: list[Any] = []

    def stranger() -> None:
        deadline = time.monotonic() + 60
        while not running.exists() and time.monotonic() < deadline:
            time.sleep(0.01)  # a file of another process: nothing to wait on
        _generate(server.base_url, answers)
        if not arrived.exists():
            too_early.append(answers[-1])

    thread = threading.Thread(target=stranger)
    thread.start()
    server.execute_script(_script_that_meets_a_stranger, args=(running, arrived))
    thread.join(60)
    assert not thread.is_alive()
    ((status, body),) = answers
    assert status == 200
    assert len(body["output_ids"]) == 3
    assert too_early == []


def test_health_answers_between_scripts(server: ScriptedHttpServer) -> None:
    assert _get(f"{server.base_url}/health") == 200
    server.execute_script(_script_that_idles)
    assert _get(f"{server.base_url}/health") == 200
    assert _get(f"{server.base_url}/health") == 200


def _script_that_idles(t: Any) -> Any:
    for _ in range(100):
        assert t.is_fully_idle
        assert t.engine.requests() == []
        yield


def _script_that_ends_at_once(t: Any) -> Any:
    yield


def test_idle_iterations_are_not_disturbed_by_health_checks(server: ScriptedHttpServer) -> None:
    statuses: list[int] = []
    stop = threading.Event()

    def ask() -> None:
        while not stop.is_set():
            statuses.append(_get(f"{server.base_url}/health"))

    thread = threading.Thread(target=ask)
    thread.start()
    deadline = time.monotonic() + 30
    try:
        # An answer to a health check takes SGLang a second: in that time many scripts run.
        while len(statuses) < 3 and time.monotonic() < deadline:
            server.execute_script(_script_that_idles)
    finally:
        stop.set()
        thread.join(60)
    assert not thread.is_alive()
    assert len(statuses) >= 3
    assert set(statuses) == {200}


def _script_that_flushes_under_holds(t: Any) -> Any:
    r = t.start_req(prompt_len=40, max_new_tokens=2, ignore_eos=True)
    while not r.finished:
        yield
    while not t.is_fully_idle:
        yield
    t.exhaust_kv(leave_pages=100)
    yield
    held = t.engine.kv_pools["full"].held
    assert held
    receipt = t.flush_cache()
    yield
    assert receipt.ok
    assert t.engine.kv_pools["full"].held == held
    stats = t.engine_stats()
    assert stats["kv_pool_evictable"] == 0
    assert stats["kv_pool_free"] == stats["kv_pool_total"] - held
    # SGLang's own leak check runs in each of these.
    for _ in range(100):
        yield
    t.release_exhausted()
    yield
    stats = t.engine_stats()
    assert stats["kv_pool_free"] == stats["kv_pool_total"]
    yield


def test_holds_survive_a_flush(server: ScriptedHttpServer) -> None:
    server.execute_script(_script_that_flushes_under_holds)
    server.execute_script(_script_that_ends_at_once)
