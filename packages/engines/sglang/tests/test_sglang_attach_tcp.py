"""Attaching to an SGLang server that was started by its own command, in a process tree of its own."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from scripted_core.errors import EngineBusy, EngineDied, ScriptFailed
from scripted_core.free_ports import free_port
from scripted_core.sessions import ScriptedHttpServer
from scripted_core.sessions.processes import group_members
from scripted_core.wire.keys import make_keys
from scripted_registry.ci import register_cpu_ci
from scripted_sglang import launch
from scripted_sglang.server import HIGHEST_PORT
from scripted_sglang.tiny_model import write_tiny_model

register_cpu_ci(est_time=60, stage="single-sglang", runner_config="cpu")

pytestmark = pytest.mark.skipif(
    launch.check_usable() is not None,
    reason=f"needs the capability 'an installed SGLang': {launch.check_usable()}",
)

_START_S = 300.0
_CHUNK = 64


class Elsewhere:
    """`python -m sglang.launch_server …` with two variables set."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.log = folder / "server.log"
        make_keys(folder / "keys")
        write_tiny_model(folder / "model", context_length=1024)
        (folder / "t").mkdir()
        kwargs = {**launch.default_kwargs(cpu=True), "model_path": str(folder / "model")}
        kwargs |= {"chunked_prefill_size": _CHUNK, "api_key": "a-key-of-its-own"}
        self.port = free_port(highest=HIGHEST_PORT)
        argv = launch.server_argv(kwargs, host="127.0.0.1", port=self.port)
        env = {
            **os.environ,
            **launch.server_env(cpu=True),
            "SCRIPTED_LISTEN": "tcp://127.0.0.1:0",
            "SCRIPTED_KEY_FILE": str(folder / "keys" / "engine.key"),
            "TMPDIR": str(folder / "t"),
        }
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                argv, env=env, stdout=log, stderr=log, start_new_session=True
            )

    @property
    def address(self) -> str:
        words = "test clients attach at "
        deadline = time.monotonic() + _START_S
        while time.monotonic() < deadline and self.process.poll() is None:
            _, found, rest = self.log.read_text(errors="replace").partition(words)
            if found and "\n" in rest:
                return rest.splitlines()[0]
            time.sleep(0.1)
        raise AssertionError(self.log.read_text(errors="replace")[-6000:])

    @property
    def key(self) -> Path:
        return self.folder / "keys" / "client.key"

    def attach(self, **kwargs: Any) -> ScriptedHttpServer:
        return ScriptedHttpServer.attach(
            self.address, key_file=self.key, **{"timeout_s": 60.0, **kwargs}
        )


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Elsewhere]:
    server = Elsewhere(tmp_path_factory.mktemp("elsewhere"))
    yield server
    with contextlib.suppress(ProcessLookupError):
        os.killpg(server.process.pid, signal.SIGKILL)
    server.process.wait()


def generate(server: Elsewhere) -> dict[str, Any]:
    body = {"input_ids": [5, 6, 7], "sampling_params": {"max_new_tokens": 3, "ignore_eos": True}}
    request = urllib.request.Request(
        f"http://127.0.0.1:{server.port}/generate",
        data=json.dumps(body).encode(),
        headers={
            "Content-Type": "application/json",
            "Authorization": "Bearer a-key-of-its-own",
        },
    )
    with urllib.request.urlopen(request, timeout=60) as answer:
        found: dict[str, Any] = json.loads(answer.read())
        return found


def retract_and_resume(t: Any) -> Any:
    r = t.start_req(prompt_len=150, seed=1, max_new_tokens=4, ignore_eos=True)
    while r.chunks_done < 1:
        yield
    t.pause_generation(mode="retract")
    yield
    assert r.status == "waiting"
    t.continue_generation()
    while not r.finished:
        yield
    assert len(r.output_ids) == 4


def is_wrong(t: Any) -> Any:
    yield
    assert t.engine_stats()["page_size"] == "seventeen"


def steps_forever(t: Any) -> Any:
    while True:
        yield


def test_scripts_run_on_it_and_leave_it_to_others_in_between(elsewhere: Elsewhere) -> None:
    with elsewhere.attach() as server:
        assert server.config.engine == "sglang"
        assert server.base_url == f"http://127.0.0.1:{elsewhere.port}"
        assert server.arguments["chunked_prefill_size"] == _CHUNK
        assert server.arguments["page_size"] == 1  # settled: none was given
        assert server.arguments["max_total_tokens"] == 4096
        assert "a-key-of-its-own" not in repr(server.arguments)
        server.execute_script(retract_and_resume)
        assert len(generate(elsewhere)["output_ids"]) == 3
        with pytest.raises(ScriptFailed, match="'seventeen'"):
            server.execute_script(is_wrong)
        with pytest.raises(EngineBusy, match="another test client is attached"):
            elsewhere.attach()
        server.execute_script(retract_and_resume)
    assert len(generate(elsewhere)["output_ids"]) == 3
    with elsewhere.attach() as again:
        again.execute_script(retract_and_resume)


def test_pytest_attaches_and_skips_what_the_server_is_not_configured_for(
    elsewhere: Elsewhere, tmp_path: Path
) -> None:
    (tmp_path / "test_there.py").write_text(
        "import pytest\n"
        "@pytest.mark.scripted(chunked_prefill_size=64)\n"
        "def test_fits(t):\n"
        "    r = t.start_req(prompt_len=100, seed=2, max_new_tokens=2)\n"
        "    yield\n"
        "    assert r.is_chunking\n"
        "    while not r.finished:\n"
        "        yield\n"
        "@pytest.mark.scripted(chunked_prefill_size=32)\n"
        "def test_wants_another(t):\n"
        "    yield\n"
    )
    done = subprocess.run(
        [
            *(sys.executable, "-m", "pytest", "-rs", "-p", "no:cacheprovider", "test_there.py"),
            *("--scripted-attach", elsewhere.address, "--scripted-key", str(elsewhere.key)),
        ],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout
    assert "1 passed, 1 skipped" in done.stdout
    assert "chunked_prefill_size=64 (the test wants 32)" in done.stdout


def test_the_death_of_its_scheduler_is_seen_at_once(elsewhere: Elsewhere) -> None:
    session = elsewhere.attach()
    began: list[float] = []
    pids = {name: pid for pid, name in session.pids.items()}
    assert pids.keys() == {"scheduler", "detokenizer"}

    def on_step(step: Any) -> None:
        if not began:
            began.append(time.monotonic())
            os.kill(pids["scheduler"], signal.SIGKILL)

    with pytest.raises(EngineDied, match=rf"scheduler \(pid {pids['scheduler']}\) ended"):
        session.execute_script(steps_forever, on_step=on_step)
    assert time.monotonic() - began[0] < 2.0
    session.shutdown()
    elsewhere.process.wait(30)
    # What SGLang leaves of itself is its own; the gate and its folder are gone.
    deadline = time.monotonic() + 10
    while _left(elsewhere) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert _left(elsewhere) == []


def _left(server: Elsewhere) -> list[str]:
    members = group_members(server.process.pid).values()
    return [name for name in members if "scripted_core.gate" in name]
