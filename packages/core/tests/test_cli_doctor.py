"""`scripted doctor`: what it finds, what it says to type, and what it deletes."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from scripted_core.cli import main
from scripted_core.cli.doctor.findings import Level
from scripted_core.cli.doctor.installed import look_at_distributions, look_at_pytest
from scripted_core.cli.doctor.leftovers import find_leftovers
from scripted_core.wire.address import ENV_WIRE, create_address
from scripted_core.wire.transport import TestSideChannel
from scripted_registry import EngineMode, EngineSpec, PluginManager, hookimpl
from scripted_registry.ci import register_cpu_ci

register_cpu_ci(est_time=10, stage="unit", runner_config="cpu")

SCRIPTED_API = 1
LONG_AGO = 1_000_000_000


class Engines:
    def __init__(self, *specs: EngineSpec) -> None:
        self._specs = list(specs)

    @hookimpl
    def scripted_register_engines(self) -> list[EngineSpec]:
        return self._specs


def engine(name: str, **fields: Any) -> EngineSpec:
    return EngineSpec(name=name, summary="for tests", modes=(EngineMode.IN_PROCESS,), **fields)


@pytest.fixture
def temporary(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A temporary folder of one's own, short enough for sockets, and no others."""
    folder = Path(tempfile.mkdtemp(prefix="dr-"))
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    monkeypatch.setattr("scripted_core.cli.doctor.leftovers._SHARED", ())
    yield folder
    shutil.rmtree(folder)


def doctor(capsys: pytest.CaptureFixture[str], *options: str) -> tuple[int, dict[str, Any]]:
    with pytest.raises(SystemExit) as ended:
        main(["doctor", "--json", *options])
    assert isinstance(ended.value.code, int)
    return ended.value.code, json.loads(capsys.readouterr().out)


def found(report: dict[str, Any], name: str) -> dict[str, Any]:
    (finding,) = (finding for finding in report["findings"] if finding["name"] == name)
    return dict(finding)


def test_an_engine_that_can_run_makes_it_succeed(
    plugins: PluginManager, temporary: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    absent = engine("absent", check=lambda: "Absent is not installed: pip install absent")
    untested = engine("untested", remark=lambda: "version 9 is untested")
    plugins.register(Engines(engine("good"), absent, untested), name="engines")
    status, report = doctor(capsys)
    assert (status, report["can_run"]) == (0, True)
    assert found(report, "good")["level"] == "ok"
    assert found(report, "absent") == {
        "area": "engines",
        "level": "missing",
        "name": "absent",
        "text": "Absent is not installed",
        "remedy": "pip install absent",
    }
    assert found(report, "untested")["level"] == "warn"
    assert "version 9 is untested" in found(report, "untested")["text"]


def test_without_a_usable_engine_it_fails_and_says_what_to_type(
    plugins: PluginManager, temporary: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status, report = doctor(capsys)
    assert (status, report["can_run"]) == (1, False)
    assert found(report, "engines")["remedy"] == "pip install 'scripted-core[reference]'"


def test_an_engine_whose_check_raises_does_not_end_the_report(
    plugins: PluginManager, temporary: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken() -> str | None:
        raise OSError("no such device")

    plugins.register(Engines(engine("broken", check=broken)), name="engines")
    status, report = doctor(capsys)
    assert status == 1
    assert "OSError: no such device" in found(report, "broken")["text"]
    assert found(report, "pytest")["level"] == "ok"


def test_a_plugin_that_does_not_import_is_named_and_the_others_are_loaded(tmp_path: Path) -> None:
    package = tmp_path / "broken_plugin-1.0.dist-info"
    package.mkdir()
    (package / "METADATA").write_text("Metadata-Version: 2.1\nName: broken-plugin\nVersion: 1.0\n")
    (package / "entry_points.txt").write_text("[scripted]\nbroken = broken_plugin\n")
    (tmp_path / "broken_plugin.py").write_text("import nothing_of_that_name\n")

    def run(command: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-c", "from scripted_core.cli import main; main()", command, "--json"],
            env={**os.environ, "PYTHONPATH": str(tmp_path)},
            capture_output=True,
            text=True,
            timeout=60,
        )

    report = json.loads(run("doctor").stdout)
    assert report["can_run"] is False
    plugin = found(report, "broken-plugin")
    assert "No module named 'nothing_of_that_name'" in plugin["text"]
    assert "SCRIPTED_DISABLE_PLUGINS=broken" in plugin["remedy"]
    assert any(one["area"] == "engines" for one in report["findings"])
    listed = run("list")
    assert listed.returncode == 2
    assert "nothing_of_that_name" in listed.stderr
    assert "Traceback" not in listed.stderr
    unknown = run("of-that-plugin")
    assert unknown.returncode == 2
    assert "nothing_of_that_name" in unknown.stderr, "the command may be that plugin's"


def test_distributions_that_do_not_fit_together_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "scripted_stale-1.0.dist-info"
    package.mkdir()
    (package / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: scripted-stale\nVersion: 1.0\n"
        "Requires-Dist: scripted-core<0.0.1\nRequires-Dist: scripted-nowhere>=2\n"
        "Requires-Dist: scripted-unwanted; extra == 'all'\nRequires-Dist: rich>=1\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    findings = {finding.name: finding for finding in look_at_distributions()}
    stale = findings["scripted-stale"]
    assert stale.level is Level.MISSING
    assert "scripted-nowhere>=2 (not installed)" in stale.text
    assert stale.remedy == "pip install 'scripted-core<0.0.1' 'scripted-nowhere>=2'"
    assert findings["scripted-core"].level is Level.OK


def test_a_pytest_that_leaves_the_plugin_out_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", raising=False)
    monkeypatch.setenv("PYTEST_ADDOPTS", "-q -p no:scripted")
    (finding,) = look_at_pytest()
    assert finding.level is Level.WARN
    monkeypatch.setenv("PYTEST_ADDOPTS", "-q")
    (finding,) = look_at_pytest()
    assert finding.level is Level.OK


def dead_session(*, age_s: float = 3600.0) -> Path:
    address = create_address()
    TestSideChannel(address).close()
    address.log.write_text("the last words")
    folder = Path(address.directory)
    changed = folder.stat().st_mtime - age_s
    os.utime(folder, (changed, changed))
    return folder


def test_clean_deletes_dead_sessions_and_nothing_else(
    plugins: PluginManager, temporary: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    dead = dead_session()
    living = create_address()
    channel = TestSideChannel(living)
    os.utime(living.directory, (LONG_AGO, LONG_AGO))
    young = dead_session(age_s=0.0)
    other = temporary / "scripted-notes"
    other.mkdir()
    (other / "notes.txt").write_text("somebody's own")
    os.utime(other, (LONG_AGO, LONG_AGO))
    try:
        report = doctor(capsys)[1]
        assert found(report, "leftovers")["remedy"] == "scripted doctor --clean"
        assert str(dead) in found(report, "leftovers")["text"]
        assert dead.exists(), "it only looks"
        report = doctor(capsys, "--clean")[1]
        assert str(dead) in found(report, "leftovers")["text"]
        assert not dead.exists()
        assert Path(living.directory).exists()
        assert young.exists(), "it may have just begun"
        assert other.exists()
    finally:
        channel.close()
        living.remove()


def test_an_engine_without_its_session_is_named_and_its_folder_kept(
    plugins: PluginManager, temporary: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    dead = dead_session()
    orphan = subprocess.Popen(
        ["cat"],
        env={**os.environ, ENV_WIRE: str(dead)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert orphan.stdin is not None
    assert orphan.stdout is not None
    try:
        # It answers, so it runs; right after its start a process has no environment to be read yet.
        orphan.stdin.write(b"here\n")
        orphan.stdin.flush()
        assert orphan.stdout.readline() == b"here\n"
        (leftover,) = find_leftovers()
        assert leftover.pids == (orphan.pid,)
        report = doctor(capsys, "--clean")[1]
        assert f"kill {orphan.pid}" in found(report, "leftovers")["remedy"]
        assert dead.exists()
    finally:
        orphan.kill()
        orphan.communicate()


def test_a_temporary_folder_that_sessions_cannot_use(
    plugins: PluginManager,
    temporary: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    deep = temporary / ("d" * 120)
    deep.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(deep))
    finding = found(doctor(capsys)[1], "temporary folder")
    assert finding["level"] == "warn"
    assert "too long" in finding["text"]


def test_it_is_quick_and_loads_nothing_heavy() -> None:
    code = (
        "import sys\nfrom scripted_core.cli import main\n"
        "try: main(['doctor', '--json'])\nexcept SystemExit: pass\n"
        "heavy = {'torch', 'aiohttp', 'zmq', 'pytest', 'sglang'} & set(sys.modules)\n"
        "print(*heavy, file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stderr.strip() == ""
