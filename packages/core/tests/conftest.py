from __future__ import annotations

import importlib
import shutil
import signal
from pathlib import Path

import pytest
from hypothesis import settings
from scripted_registry import PluginManager

# Under nohup a run ignores SIGHUP, and so would the processes that tests start and hang up on.
if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
    signal.signal(signal.SIGHUP, signal.SIG_DFL)

# A test run leaves no files behind, and is the same every time.
settings.register_profile(
    "scripted", database=None, deadline=None, derandomize=True, max_examples=60
)
settings.load_profile("scripted")


@pytest.fixture
def plugins(monkeypatch: pytest.MonkeyPatch) -> PluginManager:
    """A plugin manager with the built-ins only, in place of the one with all that is installed."""
    manager = PluginManager(environ={})
    monkeypatch.setattr("scripted_registry.manager._process_manager", manager)
    return manager


class ScriptedPytester:
    """A pytest below this one that has the engines of ``fake_engines_plugin.py`` and no others."""

    def __init__(self, pytester: pytest.Pytester) -> None:
        self._pytester = pytester
        self.path = pytester.path
        self.makepyfile = pytester.makepyfile
        self.makeconftest = pytester.makeconftest
        self.makeini = pytester.makeini
        self.runpytest_inprocess = pytester.runpytest_inprocess
        self.runpytest_subprocess = pytester.runpytest_subprocess

    def run_in_process(self, *arguments: str) -> pytest.RunResult:
        """In this process, which is quick."""
        return self._pytester.runpytest_inprocess("-p", "fake_engines_plugin", *arguments)

    def run_in_subprocess(self, *arguments: str) -> pytest.RunResult:
        """In a process of its own."""
        return self._pytester.runpytest_subprocess("-p", "fake_engines_plugin", *arguments)

    def events(self) -> list[str]:
        """What happened to engines so far."""
        path = self.path / "events.txt"
        return path.read_text().splitlines() if path.exists() else []

    def starts(self) -> list[str]:
        """The configurations of engines that were started."""
        return [line.partition(" ")[2] for line in self.events() if line.startswith("start ")]

    def stops(self) -> list[str]:
        """The configurations of engines that were stopped."""
        return [line.partition(" ")[2] for line in self.events() if line.startswith("stop ")]

    def forget_events(self) -> None:
        """Begin anew."""
        (self.path / "events.txt").unlink(missing_ok=True)


@pytest.fixture(scope="session")
def everything_imported() -> None:
    """pytester takes back what was imported since it began; some of it cannot be imported twice."""
    for name in (
        "scripted_core.pytest_plugin._runtime",
        "scripted_core.sessions.http_server",
        "scripted_core.sessions.in_process",
        "scripted_core.unittest_case",
    ):
        importlib.import_module(name)


@pytest.fixture
def scripted_pytester(
    everything_imported: None, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> ScriptedPytester:
    """A folder of tests and a pytest that runs them on fake engines, with warnings as errors."""
    tests = Path(__file__).parent
    pytester.makeini("[pytest]\nfilterwarnings = error\n")
    shutil.copy(tests / "fake_engines_plugin.py", pytester.path)
    pytester.syspathinsert()
    for name in ("BACKEND", "PLUGINS", "DISABLE_PLUGINS", "STALL_TIMEOUT_S", "XDIST_SERVERS"):
        monkeypatch.delenv(f"SCRIPTED_{name}", raising=False)
    monkeypatch.setenv("SCRIPTED_BACKEND", "local")
    monkeypatch.setenv("FAKE_ENGINE_PROGRAM", str(tests / "fake_engine_program.py"))
    monkeypatch.setattr("scripted_registry.manager._process_manager", None)
    return ScriptedPytester(pytester)
