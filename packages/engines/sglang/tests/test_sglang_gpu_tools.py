"""The tools of the GPU stage, as far as they run without a GPU."""

from __future__ import annotations

import importlib.util
import json
import sys
import tarfile
import time
import zipfile
from pathlib import Path
from types import ModuleType

import pytest
from scripted_registry.ci import register_cpu_ci

register_cpu_ci(est_time=30, stage="single-sglang", runner_config="cpu")

TOOLS = Path(__file__).resolve().parents[1] / "tools"


def _tool(name: str) -> ModuleType:
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, TOOLS / f"{name}.py")
        assert spec is not None
        assert spec.loader is not None
        sys.modules[name] = module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    return sys.modules[name]


# -- bundle --------------------------------------------------------------------------------------


def _wheel(folder: Path, name: str, files: dict[str, str]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    wheel = folder / f"{name}-1.0-py3-none-any.whl"
    info = f"{name}-1.0.dist-info"
    written = {
        **files,
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    written[f"{info}/RECORD"] = "".join(f"{path},,\n" for path in [*written, f"{info}/RECORD"])
    with zipfile.ZipFile(wheel, "w") as archive:
        for path, text in written.items():
            archive.writestr(path, text)
    return wheel


def test_kernels_of_other_gpus_are_left_out(tmp_path: Path) -> None:
    wheel = _wheel(
        tmp_path, "kernels", {"k/sm100/ops.so": "x", "k/flash_ops.so": "x", "k/sm90/ops.so": "y"}
    )
    _tool("gpu_bundle").strip(wheel)
    names = [name for name in zipfile.ZipFile(wheel).namelist() if name.endswith(".so")]
    assert names == ["k/sm90/ops.so"]


@pytest.mark.parametrize("packed", [True, False])
def test_what_is_installed_is_both_folders_and_the_stand_ins(packed: bool, tmp_path: Path) -> None:
    pytest.importorskip("pip", reason="the tool installs with pip, and this environment has none")
    bundle = _tool("gpu_bundle")
    files = {"flashinfer/__init__.py": "A = 1", "flashinfer/data/cutlass/c.h": "x"}
    _wheel(tmp_path / "bundle", "flashinfer", files)
    _wheel(tmp_path / "dist", "ours", {"ours.py": "B = 2"})
    archive, site = tmp_path / "site.tar.xz", tmp_path / "site"
    if packed:
        assert (
            bundle.main(["pack", *map(str, (tmp_path / "bundle", tmp_path / "dist", archive))]) == 0
        )
        with tarfile.open(archive) as tar:
            assert "./ours.py" in tar.getnames()
    assert bundle.main(["install", str(archive if packed else tmp_path / "bundle"), str(site)]) == 0
    assert (site / "flashinfer/__init__.py").read_text() == "A = 1"
    assert (site / "ours.py").exists() is packed
    assert (site / "flashinfer/data/cutlass").exists() is not packed
    assert "display" in (site / "IPython/display.py").read_text()
    assert (site / "soundfile.py").exists()


def test_nothing_to_install_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert _tool("gpu_bundle").main(["install", str(tmp_path), str(tmp_path / "site")]) == 2
    assert "no wheel" in capsys.readouterr().err


# -- stage ---------------------------------------------------------------------------------------

_TESTS = """
import time, pytest
def test_passes(): pass
def test_fails(): assert 1 == 2
@pytest.mark.skip(reason="needs a 'rust' tree")
def test_is_skipped(): pass
def test_hangs(): time.sleep(60)
"""


def test_a_run_that_is_too_long_is_ended_and_what_it_found_is_kept(tmp_path: Path) -> None:
    stages = _tool("gpu_stage")
    file = tmp_path / "test_of_a_stage.py"
    file.write_text(_TESTS, encoding="utf-8")
    out = tmp_path / "out"
    out.mkdir()
    begun = time.monotonic()
    stage = stages.Stage(out, begun + 60 + stages.STOPPING_S)
    options = ("-p", "no:cacheprovider", "--rootdir", str(tmp_path))
    stage.versions()
    assert not stage.test(stages.Tests("a stage", (str(file),), options), limit_s=12, workers=1)
    assert time.monotonic() - begun < 40
    lines = (out / "tests-a-stage.jsonl").read_text(encoding="utf-8").splitlines()
    outcomes = {row["test"].partition("::")[2]: row["outcome"] for row in map(json.loads, lines)}
    assert outcomes.pop("test_hangs", "failed") == "failed"
    assert outcomes == {
        "test_passes": "passed",
        "test_fails": "failed",
        "test_is_skipped": "skipped",
    }
    text = "\n".join(_tool("gpu_report").report(out))
    assert "| `test_of_a_stage.py` | 1 |" in text
    assert "| 1 | needs a 'rust' tree |" in text
    assert "- failed: `" in text
    assert "interrupted" in text


def test_a_measurement_that_does_not_start_is_passed_over(tmp_path: Path) -> None:
    stages = _tool("gpu_stage")
    stage = stages.Stage(tmp_path, time.monotonic() + 60)
    assert not stage.measure([stages.Measurement("none", "nothing")])
    assert "figures" not in stage.found
    assert "KeyError: 'nothing'" in (tmp_path / "figures-none.log").read_text()


@pytest.mark.parametrize(
    ("options", "ran"),
    [
        (["--only", "kit", "speculation"], ["occupancy", "speculation", "speculation"]),
        (["--gpus", "2", "--only", "figures"], ["steps", "steps"]),
        (["--gpus", "2"], ["steps", "steps", "two GPUs"]),
        (["--only", "tests"], ["one GPU"]),
    ],
)
def test_only_what_is_asked_for_is_run(
    options: list[str], ran: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stages = _tool("gpu_stage")
    told: list[str] = []
    monkeypatch.setattr(
        stages.Stage, "measure", lambda _, wanted: told.extend(one.what for one in wanted) or True
    )
    monkeypatch.setattr(stages.Stage, "test", lambda _, tests, **__: not told.append(tests.name))
    assert stages.main([str(tmp_path / "out"), *options]) == 0
    assert told == ran


# -- report --------------------------------------------------------------------------------------


def test_a_report_has_what_was_measured_and_nothing_else(tmp_path: Path) -> None:
    ratio = {"median": 0.99, "low": 0.98, "high": 1.0}
    side = {"tokens_per_s": 5000.0, "occupancy": None}
    figures = {
        "steps": {"decode_ms": {"median": 1.5}},
        "free": {
            "pairs": 4,
            "throughput_ratio": ratio,
            "plain": {**side, "occupancy": 98.5},
            "hooked": side,
        },
    }
    found = {"date": "2026-01-01", "cores": 8, "versions": {"sglang": "1"}, "figures": figures}
    (tmp_path / "stage.json").write_text(json.dumps(found), encoding="utf-8")
    text = "\n".join(_tool("gpu_report").report(tmp_path))
    assert "| decode per yield, ms | 1.5 |" in text
    assert "| `start_req` to arrival, ms |  |" in text
    assert "| free | 4 | 5,000 | 5,000 | 0.990 (0.980 to 1.000) | 98.5 % |  |" in text


def test_a_report_says_what_the_kit_said_and_which_scenarios_failed(tmp_path: Path) -> None:
    measured = {"median": 98.5, "least": 97.0, "peak": 99.0, "samples": 12}
    said = {"outcome": "passed", "figures": {**measured, "output_tokens": 800, "elapsed_s": 4.0}}
    figures = {
        "kit": {"kit": {"plain": [said], "hooked": [{"outcome": "skipped", "figures": {}}]}},
        "EAGLE3": {
            "tokens_per_step": 1.25,
            "passed": 3,
            "failed": ["a under b: request 0 was answered\nwith this"],
            "broken": [],
            "not_run": 2,
            "answers": 8,
            "differing": 1,
        },
    }
    found = {"date": "2026-01-01", "cores": 8, "versions": {"sglang": "1"}, "figures": figures}
    (tmp_path / "stage.json").write_text(json.dumps(found), encoding="utf-8")
    text = "\n".join(_tool("gpu_report").report(tmp_path))
    assert "| kit | plain | 98.50 % | 97.00 to 99.00 % | 12 | 200 | passed |" in text
    assert "| kit | hooked | | | 0 | | skipped |" in text
    assert "EAGLE3: 3 scenarios passed, 1 failed, 0 broke the server, 2 not reached" in text
    assert "- a under b: request 0 was answered\n" in f"{text}\n"


def test_no_stage_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert _tool("gpu_report").main([str(tmp_path)]) == 2
    assert "no stage.json" in capsys.readouterr().err
