from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from scripted_registry import PluginManager, reset_plugin_manager
from scripted_registry.ci import cli, register_cpu_ci
from scripted_registry.ci.durations import duration
from scripted_registry.ci.errors import CiRegistrationError
from scripted_registry.ci.listing import build_listing
from scripted_registry.ci.scan import scan_source

register_cpu_ci(est_time=1, stage="unit", runner_config="cpu")

STAGE_PLUGIN = """
    from scripted_registry import CiRunner, CiStage, hookimpl

    SCRIPTED_API = 1

    @hookimpl
    def scripted_register_ci_runners():
        return [CiRunner(name="8-npu", summary="", labels=("npu",), gpus=8)]

    @hookimpl
    def scripted_register_ci_stages():
        return [
            CiStage(
                name="acme-base", runner=runner, summary="", engine="toy", command="pytest {tests}",
                env={"A": "1"}, packages=("acme",), est_time_s=90.0, nightly=runner == "8-npu",
            )
            for runner in ("cpu", "8-npu")
        ]
"""


@pytest.fixture(autouse=True)
def no_width(monkeypatch: pytest.MonkeyPatch) -> None:
    """A runner of tests may have set the width of its own output."""
    monkeypatch.delenv("COLUMNS", raising=False)


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
    """No plugin but the built-in one, in an empty folder."""
    monkeypatch.setenv("SCRIPTED_DISABLE_PLUGINS", "all")
    folder = tmp_path / "work"
    folder.mkdir()
    monkeypatch.chdir(folder)
    reset_plugin_manager()
    yield folder
    reset_plugin_manager()


def run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as caught:
        cli.main(list(arguments))
    assert isinstance(caught.value.code, int)
    return caught.value.code


def write(folder: Path, name: str, text: str) -> None:
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(text)


@pytest.mark.parametrize("arguments", [[], ["list"], ["list", "."], ["."]])
def test_stages_and_tests_are_listed(
    alone: Path, capsys: pytest.CaptureFixture[str], arguments: list[str]
) -> None:
    write(alone, "a/test_one.py", 'register_cpu_ci(70, stage="unit", runner_config="cpu")\n')
    write(
        alone,
        "test_two.py",
        'register_cpu_ci(5, suite="unit-test-cpu", nightly=True, disabled="[slow] host")\n',
    )
    assert run(*arguments) == 0
    out, err = capsys.readouterr()
    assert err == ""
    (row,) = [line for line in out.splitlines() if "scripted-registry" in line]
    assert [cell.strip() for cell in row.split("│")[1:-1]] == [
        "unit",
        "cpu",
        "-",
        "1 (+1 disabled)",
        "1 min 10 s",
        "scripted-registry",
    ]
    assert "a/test_one.py:1" in out
    assert "nightly, disabled: [slow] host" in out
    assert "\x1b" not in out


def test_stages_of_an_installed_distribution_appear_with_no_other_change(
    add_distribution: Callable[..., None],
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    add_distribution("acme-ci", entry_points={"x": "acme_ci"}, acme_ci=STAGE_PLUGIN)
    tests = tmp_path / "tests"
    write(tests, "test_a.py", 'register_cuda_ci(7, stage="acme-base", runner_config="8-npu")\n')
    monkeypatch.chdir(tests)
    assert run("--json") == 0
    listing = json.loads(capsys.readouterr().out)
    assert listing["problems"] == []
    assert [runner["name"] for runner in listing["runners"]][-1] == "8-npu"
    suites = {stage["suite"]: stage for stage in listing["stages"]}
    assert list(suites) == ["unit-test-cpu", "acme-base-test-cpu", "acme-base-test-8-npu"]
    npu = suites["acme-base-test-8-npu"]
    assert npu["tests"] == [
        {
            "path": "test_a.py",
            "line": 1,
            "backend": "cuda",
            "est_time_s": 7.0,
            "nightly": False,
            "disabled": None,
        }
    ]
    assert npu["distribution"] == "acme-ci"
    assert npu["est_time_s"] == 7.0
    assert npu["nightly"] is True
    assert suites["acme-base-test-cpu"]["est_time_s"] == 90.0
    assert suites["acme-base-test-cpu"]["env"] == {"A": "1"}
    assert run() == 0
    assert "acme-base (nightly)" in capsys.readouterr().out


def test_a_stage_that_nobody_registered(alone: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(alone, "test_a.py", '\nregister_cpu_ci(1, stage="unti", runner_config="cpu")\n')
    assert run() == 2
    out, err = capsys.readouterr()
    assert "scripted-registry" in out
    assert (
        "error: test_a.py:2: nobody registered stage 'unti' (runner 'cpu'); did you mean 'unit'?"
    ) in err
    assert "hint: " in err
    assert run("--json") == 2
    (problem,) = json.loads(capsys.readouterr().out)["problems"]
    assert (problem["path"], problem["line"]) == ("test_a.py", 2)


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (
            'register_cpu_ci(1, stage="unit", runner_config="1-gpu-h100")',
            "stage 'unit' is not registered for runner '1-gpu-h100', but for cpu",
        ),
        ('register_cpu_ci(1, stage="zzz", runner_config="cpu")', "there are: unit"),
        ('register_cpu_ci(1, suite="unit-test-cpuu")', "did you mean 'unit-test-cpu'?"),
        ('register_cpu_ci(1, suite="zzz")', "there are: unit-test-cpu"),
        (
            'register_cuda_ci(1, stage="unit", runner_config="cpu")',
            "register_cuda_ci for runner 'cpu', which has no GPU",
        ),
    ],
)
def test_registrations_that_fit_no_stage(call: str, said: str) -> None:
    manager = PluginManager(environ={})
    listing = build_listing(
        runners=manager.ci_runners(),
        stages=manager.ci_stages(),
        registrations=scan_source(call, path=Path("test_x.py")),
    )
    assert [row.tests for row in listing.rows] == [()]
    with pytest.raises(CiRegistrationError) as caught:
        listing.check()
    assert said in caught.value.message
    assert caught.value.message.startswith("test_x.py:1: ")


def test_mistakes_are_messages_without_a_traceback(
    alone: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run("registr") == 2
    assert "error: there is no file or folder 'registr'" in capsys.readouterr().err
    assert run("--jsn") == 2
    assert "No such option" in capsys.readouterr().err
    write(alone, "test_a.py", 'register_cpu_ci(SLOW, suite="unit-test-cpu")\n')
    assert run() == 2
    assert "error: test_a.py:1: register_cpu_ci: est_time is computed" in capsys.readouterr().err
    monkeypatch.setenv("SCRIPTED_PLUGINS", "no_such_module_xyz")
    reset_plugin_manager()
    assert run() == 2
    out, err = capsys.readouterr()
    assert "error: plugin 'no_such_module_xyz' named by SCRIPTED_PLUGINS fails to import" in err
    assert "Traceback" not in out + err


def test_help_teaches_with_an_example(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (["--help"], ["list", "--help"], ["register", "--help"]):
        assert run(*arguments) == 0
        assert "Example: python -m scripted_registry" in " ".join(capsys.readouterr().out.split())


def _python_m(cwd: Path, *arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    inherited: dict[str, Any] = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("SCRIPTED_") and name not in ("FORCE_COLOR", "COLUMNS")
    }
    return subprocess.run(
        [sys.executable, "-m", "scripted_registry", *arguments],
        cwd=cwd,
        env={**inherited, "SCRIPTED_DISABLE_PLUGINS": "all", **environ},
        capture_output=True,
        text=True,
        timeout=30,
    )


def test_the_program_needs_no_torch_and_no_terminal(tmp_path: Path) -> None:
    trap = tmp_path / "trap"
    write(trap, "torch.py", "raise AssertionError('torch was imported')\n")
    write(tmp_path, "work/test_a.py", 'register_cpu_ci(1, suite="unit-test-cpu")\n')
    done = _python_m(tmp_path / "work", PYTHONPATH=str(trap))
    assert (done.returncode, done.stderr) == (0, "")
    assert "test_a.py:1" in done.stdout
    assert "\x1b" not in done.stdout


def test_the_program_exits_with_2_for_a_mistake_of_the_users(tmp_path: Path) -> None:
    done = _python_m(tmp_path, SCRIPTED_DISABLE_PLUGINS="no-such-plugin")
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("error: SCRIPTED_DISABLE_PLUGINS names 'no-such-plugin'")
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, "-"),
        (0.2, "1 s"),
        (59.4, "59 s"),
        (60, "1 min"),
        (200, "3 min 20 s"),
        (3600, "1 h"),
        (3900, "1 h 5 min"),
    ],
)
def test_durations_are_for_people(seconds: float | None, text: str) -> None:
    assert duration(seconds) == text
