"""The plugin in SGLang's processes: nothing at all outside a session, everything inside one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from scripted_core.wire.address import ENV_ENGINE, ENV_LISTEN, ENV_MEMBER, ENV_TOKEN, ENV_WIRE
from scripted_registry.ci import register_cpu_ci
from scripted_sglang import launch
from scripted_sglang._compat.needs import HOOKS, PAIR_HOOKS
from scripted_sglang.arguments import source_folder
from scripted_sglang.probes import find_place

register_cpu_ci(est_time=25, stage="single-sglang", runner_config="cpu")

_SESSION = (ENV_WIRE, ENV_TOKEN, ENV_ENGINE, ENV_LISTEN)
_NEEDS_SGLANG = pytest.mark.skipif(
    launch.check_usable() is not None,
    reason=f"needs the capability 'an installed SGLang': {launch.check_usable()}",
)

_ATTACH = """
import json, sys, types
from scripted_sglang import entry
if {is_scheduler!r}:
    sys.modules["sglang.srt.managers.scheduler"] = types.ModuleType("scheduler")
before = set(sys.modules)
entry.attach()
print(json.dumps(sorted(set(sys.modules) - before)))
"""
# What SGLang itself does first in each of its processes.
_LOAD = """
import json, sys, types
from sglang.srt.plugins import load_plugins
from sglang.srt.plugins.hook_registry import HookRegistry
if {in_session!r}:
    HookRegistry.apply_hooks = classmethod(lambda cls: None)  # that would import the scheduler
if {is_scheduler!r}:
    sys.modules["sglang.srt.managers.scheduler"] = types.ModuleType("scheduler")
load_plugins()
ours = [name for name in sys.modules if name.startswith("scripted_")]
print(json.dumps([sorted(HookRegistry._hooks), sorted(HookRegistry._patched), sorted(ours)]))
"""


def _answer(code: str, env: dict[str, str], **fields: Any) -> Any:
    clean = {name: value for name, value in os.environ.items() if name not in _SESSION}
    done = subprocess.run(
        [sys.executable, "-c", code.format(**fields)],
        env={**clean, **env},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def _session(folder: Path, *, engine: str = "sglang") -> dict[str, str]:
    return {ENV_WIRE: str(folder), ENV_TOKEN: "token", ENV_ENGINE: engine}


@pytest.mark.parametrize("is_scheduler", [False, True])
@pytest.mark.parametrize("engine", [None, "another"])
def test_outside_a_session_of_sglang_nothing_is_imported(
    is_scheduler: bool, engine: str | None, tmp_path: Path
) -> None:
    env = {} if engine is None else _session(tmp_path, engine=engine)
    assert _answer(_ATTACH, env, is_scheduler=is_scheduler) == []
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("listen", ["", "nonsense", "tcp://127.0.0.1:0"])
def test_an_engine_that_listens_without_keys_does_not_start(listen: str) -> None:
    code = "from scripted_sglang import entry\nentry.attach()\nprint('attached')"
    clean = {name: value for name, value in os.environ.items() if name not in _SESSION}
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**clean, ENV_LISTEN: listen},
        capture_output=True,
        text=True,
        check=False,
    )
    if not listen:  # as unset
        assert (done.returncode, done.stdout) == (0, "attached\n")
        return
    assert done.returncode == 1
    assert done.stderr.startswith("scripted: error: SCRIPTED_LISTEN ")
    assert "hint: " in done.stderr
    assert "Traceback" not in done.stderr


@_NEEDS_SGLANG
@pytest.mark.parametrize("is_scheduler", [False, True])
def test_outside_a_session_sglang_gets_no_hook(is_scheduler: bool) -> None:
    env = launch.server_env(cpu=True)
    hooked, patched, imported = _answer(_LOAD, env, is_scheduler=is_scheduler, in_session=False)
    assert (hooked, patched) == ([], [])
    # Our entry was called: SGLang's own plugin loader imports it, and nothing behind it.
    assert imported == ["scripted_sglang", "scripted_sglang._version", "scripted_sglang.entry"]


@_NEEDS_SGLANG
def test_in_a_session_a_process_without_a_scheduler_is_announced_and_not_hooked(
    tmp_path: Path,
) -> None:
    env = launch.server_env(cpu=True) | _session(tmp_path)
    hooks, *_ = _answer(_LOAD, env, is_scheduler=False, in_session=True)
    assert hooks == []
    (announced,) = tmp_path.iterdir()
    assert announced.read_text() == "main"


@_NEEDS_SGLANG
@pytest.mark.parametrize("member", [None, "decode"])
def test_in_a_session_the_scheduler_is_hooked_although_others_are_allowed_only(
    member: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SGLANG_PLUGINS", "somebody-elses")
    monkeypatch.delenv(ENV_MEMBER, raising=False)
    env = launch.server_env(cpu=True) | _session(tmp_path)
    if member is not None:
        env[ENV_MEMBER] = member
    hooks, *_ = _answer(_LOAD, env, is_scheduler=True, in_session=True)
    package = source_folder()
    assert package is not None
    needed = [need for need in HOOKS if member is not None or need not in PAIR_HOOKS]
    places = [find_place(package, need) for need in needed]
    assert hooks == sorted({place.dotted for place in places if place is not None})
    assert "sglang.srt.managers.scheduler.Scheduler.run_event_loop" in hooks
    (announced,) = tmp_path.iterdir()
    assert announced.read_text() == ("scheduler" if member is None else f"{member} scheduler")
