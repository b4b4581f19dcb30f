"""A server that somebody else starts, with our package installed: looked at from inside."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from scripted_core.sessions.processes import group_members
from scripted_core.wire.address import ENV_ENGINE, ENV_TOKEN, ENV_WIRE
from scripted_registry import EngineConfig, EngineMode
from scripted_registry.ci import register_cpu_ci
from scripted_sglang import launch
from scripted_sglang.server import server_launch
from scripted_sglang.tiny_model import write_tiny_model

register_cpu_ci(est_time=20, stage="single-sglang", runner_config="cpu")

pytestmark = pytest.mark.skipif(
    launch.check_usable() is not None,
    reason=f"needs the capability 'an installed SGLang': {launch.check_usable()}",
)

_START_TIMEOUT_S = 300.0
_ANSWER_TIMEOUT_S = 30.0
# Python runs this first in every process of the server; a signal makes it tell what is there.
_TELL = """
import json, os, pathlib, signal, sys

def tell(*_):
    registry = sys.modules.get("sglang.srt.plugins.hook_registry")
    hooks = [] if registry is None else sorted(registry.HookRegistry._hooks)
    told = {
        "is_sglang": registry is not None,
        "hooks": hooks,
        "ours": sorted(name for name in sys.modules if name.startswith("scripted_")),
    }
    path = pathlib.Path(os.environ["TELL_FOLDER"], f"{os.getpid()}.part")
    path.write_text(json.dumps(told))
    path.rename(path.with_suffix(".json"))

signal.signal(signal.SIGUSR2, tell)
"""


@pytest.fixture
def server(tmp_path: Path) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    """A plain SGLang, started by its own command, and its address."""
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(_TELL)
    model = write_tiny_model(tmp_path / "model")
    made = server_launch(
        EngineConfig(
            engine="sglang",
            kwargs={"model_path": str(model), "device": "cpu"},
            mode=EngineMode.SERVER,
        )
    )
    env = {k: v for k, v in os.environ.items() if k not in (ENV_WIRE, ENV_TOKEN, ENV_ENGINE)}
    env |= launch.server_env(cpu=True)
    env["PYTHONPATH"] = os.pathsep.join([str(tmp_path / "site"), env.get("PYTHONPATH", "")])
    env |= {"TELL_FOLDER": str(tmp_path), "TMPDIR": str(tmp_path)}
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(
            made.argv,
            env=env,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        yield process, f"http://{made.host}:{made.port}"
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _post(url: str, body: dict[str, Any] | None = None) -> Any:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data=data, headers={"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=_ANSWER_TIMEOUT_S) as response:
        return json.load(response)


def _wait_until_ready(process: subprocess.Popen[bytes], url: str, log: Path) -> None:
    deadline = time.monotonic() + _START_TIMEOUT_S
    while time.monotonic() < deadline:
        assert process.poll() is None, log.read_text()[-2000:]
        try:
            _post(f"{url}/model_info")
        except (urllib.error.URLError, OSError):
            time.sleep(0.2)  # another program's doing: nothing to wait on
        else:
            return
    raise AssertionError(f"not ready after {_START_TIMEOUT_S} s: {log.read_text()[-2000:]}")


def _ask_all(pids: list[int], folder: Path) -> dict[int, dict[str, Any]]:
    for pid in pids:
        os.kill(pid, signal.SIGUSR2)
    answers = {pid: folder / f"{pid}.json" for pid in pids}
    deadline = time.monotonic() + _ANSWER_TIMEOUT_S
    while not all(path.exists() for path in answers.values()) and time.monotonic() < deadline:
        time.sleep(0.05)  # a signal has no reply
    return {pid: json.loads(path.read_text()) for pid, path in answers.items() if path.exists()}


def test_without_a_session_sglang_runs_without_any_hook_of_ours(
    server: tuple[subprocess.Popen[bytes], str], tmp_path: Path
) -> None:
    process, url = server
    _wait_until_ready(process, url, tmp_path / "log")
    body = {"input_ids": list(range(4, 24)), "sampling_params": {"max_new_tokens": 3}}
    assert len(_post(f"{url}/generate", body)["output_ids"]) == 3
    answers = _ask_all(list(group_members(process.pid)), tmp_path)
    of_sglang = [told for told in answers.values() if told["is_sglang"]]
    # The main process and the scheduler; older releases load no plugins in the detokenizer.
    assert len(of_sglang) >= 2, answers
    for told in answers.values():
        assert told["hooks"] == []
    entry = {"scripted_sglang", "scripted_sglang._version", "scripted_sglang.entry"}
    assert all(set(told["ours"]) <= entry for told in answers.values()), answers
    # That these are there at all says that SGLang has loaded our plugin, and that it left at once.
    assert any(set(told["ours"]) == entry for told in answers.values())
