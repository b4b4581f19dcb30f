"""The `scripted` program from its arguments to its output and exit status, on a stub engine."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from scripted_core._version import __version__
from scripted_core.cli import main
from scripted_core.errors import EngineStartError
from scripted_core.ports import JobOutcome
from scripted_core.trace import RequestState, StepTrace
from scripted_registry import EngineConfig, EngineMode, EngineSpec, PluginManager, hookimpl
from scripted_registry.ci import register_cpu_ci

register_cpu_ci(est_time=4, stage="unit", runner_config="cpu")

SCRIPTED_API = 1  # the hook API that the stub plugin below is written for

SCRIPTS = """
import pytest

ENGINE_KWARGS = {"page_size": 4}


def script_two(t):
    yield
    yield
    assert t["page_size"] in (4, 8)


def script_fails(t):
    yield
    expected = [1, 2, 4]
    assert [1, 2, 3] == expected


def script_breaks(t):
    yield
    {}["missing"]


def script_skips(t):
    yield
    pytest.skip("not today")


@pytest.mark.scripted_requires("retract")
def script_requires(t):
    yield


@pytest.mark.scripted_requires("telepathy")
def script_requires_nonsense(t):
    yield
"""


class StubEngine:
    """Runs a script with the engine's arguments as its `t`; every iteration decodes one request."""

    name = "stub"
    version = "1.0"

    def __init__(self, config: EngineConfig) -> None:
        self._t = dict(config.kwargs)
        self.hook = self
        self.engine = self
        self.capabilities = frozenset({"chunked_prefill"})
        self.outcome: JobOutcome | None = None
        self.progress = 0
        self._trace: list[StepTrace] = []

    def start_job(self, *, function: Callable[..., Any], want_trace: bool, **_: object) -> None:
        assert want_trace
        self.outcome, self._trace = None, []
        self._script = function(self._t)

    def iterate(self) -> None:
        error: BaseException | None = None
        try:
            next(self._script)
        except StopIteration:
            pass
        except BaseException as raised:
            error = raised
        else:
            step = len(self._trace) + 1
            self._trace.append(
                StepTrace(
                    step=step,
                    mode="decode",
                    states={"req-1": RequestState.DECODE},
                    free_pages=100 - step,
                    total_pages=100,
                    operations=("start_req req-1 (3 tokens)",) if step == 1 else (),
                )
            )
            return
        self.outcome = JobOutcome(error=error, trace=tuple(self._trace), steps=len(self._trace))

    def event_digest(self) -> str:
        return "d1ge57"

    def describe_state(self) -> str:
        return "stub"

    def close(self) -> None:
        self.progress = -1


class StubPlugin:
    """Registers the engine `stub`, one that cannot be used, and a command."""

    def __init__(self) -> None:
        self.engines: list[StubEngine] = []

    @hookimpl
    def scripted_register_engines(self) -> list[EngineSpec]:
        in_process = (EngineMode.IN_PROCESS,)
        return [
            EngineSpec(name="stub", summary="for tests", modes=in_process),
            EngineSpec(
                name="absent", summary="n/a", modes=in_process, check=lambda: "pip install absent"
            ),
        ]

    @hookimpl
    def scripted_make_engine(self, config: EngineConfig) -> StubEngine | None:
        if config.engine != "stub":
            return None
        if config.kwargs.get("page_size") == 3:
            raise EngineStartError("page_size=3 is refused", hint="use a power of two")
        self.engines.append(StubEngine(config))
        return self.engines[-1]

    @hookimpl
    def scripted_register_commands(self, app: typer.Typer) -> None:
        @app.command("hello")
        def hello() -> None:
            """Say hello."""
            typer.echo("hello from a plugin")


@pytest.fixture
def stub(plugins: PluginManager, monkeypatch: pytest.MonkeyPatch) -> StubPlugin:
    monkeypatch.delenv("SCRIPTED_BACKEND", raising=False)
    monkeypatch.delenv("COLUMNS", raising=False)
    plugin = StubPlugin()
    plugins.register(plugin, name="stub")
    return plugin


@pytest.fixture
def file(tmp_path: Path) -> Iterator[Path]:
    path, modules = list(sys.path), set(sys.modules)
    written = tmp_path / "cli_command_scripts.py"
    written.write_text(SCRIPTS, encoding="utf-8")
    yield written
    sys.path[:] = path
    for name in set(sys.modules) - modules:
        if name.endswith("cli_command_scripts"):
            del sys.modules[name]


def exit_status(*arguments: object) -> int:
    with pytest.raises(SystemExit) as caught:
        main([str(argument) for argument in arguments])
    assert isinstance(caught.value.code, int)
    return caught.value.code


def test_a_passing_script_prints_each_iteration_and_what_was_checked(
    stub: StubPlugin, file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert exit_status("run", f"{file}:script_two", "--backend", "stub", "--seed", "3") == 0
    out, err = capsys.readouterr()
    lines = out.splitlines()
    assert lines[0] == "script_two on stub (in-process), seed 3"
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines if "/100" in line]
    assert rows == [
        ["1", "decode", "decode", "99/100", "start_req req-1 (3 tokens)"],
        ["2", "decode", "decode", "98/100", ""],
    ]
    assert lines[-1] == "passed: 2 iterations, invariants held after each, events d1ge57"
    assert out.isascii()
    assert "\x1b" not in out
    assert err == ""
    assert stub.engines[0].progress == -1, "the engine is shut down"


def test_a_failing_script_shows_the_assertion_and_exits_with_1(
    stub: StubPlugin, file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert exit_status("run", f"{file}:script_fails", "--backend", "stub") == 1
    out = capsys.readouterr().out
    assert "assert [1, 2, 3] == [1, 2, 4]" in out
    assert "At index 2 diff: 3 != 4" in out
    assert "in script_fails" in out
    assert "in_process.py" not in out, "the frames of the machinery are left out"
    assert out.splitlines()[-1] == "failed after 1 iteration"


def test_an_exception_of_the_script_is_shown_with_its_cause(
    stub: StubPlugin, file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert exit_status("run", f"{file}:script_breaks", "--backend", "stub") == 1
    assert "KeyError: 'missing'" in capsys.readouterr().out


def test_skips_say_why_and_are_no_failure(
    stub: StubPlugin, file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert exit_status("run", f"{file}:script_skips", "--backend", "stub") == 0
    assert capsys.readouterr().out.splitlines()[-1] == "skipped: not today"
    assert exit_status("run", f"{file}:script_requires", "--backend", "stub") == 0
    out = capsys.readouterr().out
    assert out.splitlines()[-1] == "skipped: engine 'stub' has no capability 'retract'"


def test_json_is_one_document_with_the_trace(
    stub: StubPlugin, file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert exit_status("run", f"{file}:script_fails", "--backend", "stub", "--json") == 1
    document = json.loads(capsys.readouterr().out)
    (script,) = document["scripts"]
    assert script["outcome"] == "failed"
    assert script["steps"] == 1
    assert script["trace"][0]["states"] == {"req-1": "decode"}
    assert "[1, 2, 3] == [1, 2, 4]" in script["message"]
    assert script["event_digest"] is None


def test_one_engine_serves_scripts_that_want_the_same(
    stub: StubPlugin, tmp_path: Path, file: Path
) -> None:
    text = "def script_a(t):\n    yield\ndef script_b(t):\n    yield\n"
    (tmp_path / "cli_pair.py").write_text(text, encoding="utf-8")
    assert exit_status("run", tmp_path / "cli_pair.py", "--backend", "stub") == 0
    assert len(stub.engines) == 1


def test_engine_args_win_over_the_file(stub: StubPlugin, file: Path) -> None:
    where = f"{file}:script_two"
    assert exit_status("run", where, "--backend", "stub", "--engine-arg", "page_size=8") == 0
    assert exit_status("run", where, "--backend", "stub", "--engine-arg", "page_size=5") == 1


@pytest.mark.parametrize(
    ("arguments", "message", "hint"),
    [
        (["{file}:nope", "--backend", "stub"], "has no 'nope'", "scripts in it"),
        (["{file}:script_tow", "--backend", "stub"], "script_tow", "did you mean script_two?"),
        (["{file}x", "--backend", "stub"], "there is no file", "FILE:NAME"),
        (["{file}:script_two", "--backend", "stubb"], "stubb", "stub"),
        (["{file}:script_two", "--backend", "absent"], "pip install absent", ""),
        (["{file}:script_two"], "no backend was chosen", "SCRIPTED_BACKEND"),
        (
            ["{file}:script_two", "--backend", "stub", "--engine-arg", "page_size"],
            "name=value",
            "page_size=16",
        ),
        (
            ["{file}:script_two", "--backend", "stub", "--engine-arg", "page_size=3"],
            "page_size=3 is refused",
            "power of two",
        ),
        (
            ["{file}:script_requires_nonsense", "--backend", "stub"],
            "no such capability",
            "chunked_prefill",
        ),
    ],
)
def test_a_mistake_is_a_message_and_a_hint_and_exits_with_2(
    stub: StubPlugin,
    file: Path,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    message: str,
    hint: str,
) -> None:
    assert exit_status("run", *(argument.format(file=file) for argument in arguments)) == 2
    out, err = capsys.readouterr()
    assert err.startswith("error: ")
    assert message in err
    assert hint in err
    assert "Traceback" not in err + out


def test_ctrl_c_exits_with_130_and_stops_the_engine(
    stub: StubPlugin, tmp_path: Path, file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = "def script_a(t):\n    yield\n    raise KeyboardInterrupt\n"
    (tmp_path / "cli_interrupt.py").write_text(text, encoding="utf-8")
    assert exit_status("run", tmp_path / "cli_interrupt.py", "--backend", "stub") == 130
    assert "Traceback" not in capsys.readouterr().err
    assert stub.engines[0].progress == -1


def test_list_shows_engines_and_what_is_missing(
    stub: StubPlugin, capsys: pytest.CaptureFixture[str]
) -> None:
    assert exit_status("list") == 0
    out = capsys.readouterr().out
    assert "pip install absent" in out
    assert "Kits: none installed" in out
    assert exit_status("list", "--json") == 0
    engines = json.loads(capsys.readouterr().out)["engines"]
    assert [(engine["name"], engine["missing"]) for engine in engines] == [
        ("stub", None),
        ("absent", "pip install absent"),
    ]


def test_plugins_add_commands(stub: StubPlugin, capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_status("hello") == 0
    assert capsys.readouterr().out == "hello from a plugin\n"


def test_wrong_usage_exits_with_2(stub: StubPlugin, capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_status("run") == 2
    assert exit_status("nonsense") == 2
    assert "Traceback" not in capsys.readouterr().err


def test_text_that_utf8_cannot_hold_breaks_neither_json_nor_table(
    stub: StubPlugin, tmp_path: Path, file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = "def script_a(t):\n    yield\n    assert not '\\udc80', 'lone \\udc80'\n"
    (tmp_path / "cli_surrogate.py").write_text(text, encoding="utf-8")
    assert exit_status("run", tmp_path / "cli_surrogate.py", "--backend", "stub", "--json") == 1
    out = capsys.readouterr().out
    assert "lone \\udc80" in json.loads(out)["scripts"][0]["message"]
    assert exit_status("run", tmp_path / "cli_surrogate.py", "--backend", "stub") == 1
    assert "lone \\udc80" in capsys.readouterr().out


def test_view_none_prints_the_verdict_only(
    stub: StubPlugin, file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert exit_status("run", f"{file}:script_two", "--backend", "stub", "--view", "none") == 0
    heading, verdict = capsys.readouterr().out.splitlines()
    assert heading.startswith("script_two on stub")
    assert verdict.startswith("passed: 2 iterations")


def test_the_version_comes_with_what_has_to_fit(capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_status("--version") == 0
    out = capsys.readouterr().out
    assert out.startswith(f"scripted {__version__} (hook API ")
    assert "wire protocol" in out
