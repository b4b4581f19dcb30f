"""The generated pipelines against the schemas that GitHub Actions and Buildkite publish."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from scripted_registry.ci import register_cpu_ci

pytest.importorskip("check_jsonschema", reason="needs check-jsonschema, which has the schemas")
register_cpu_ci(est_time=9, stage="unit", runner_config="cpu")

ROOT = Path(__file__).parents[2]
WORKFLOW = ".github/workflows/stages.yml"
PIPELINE = "ci/buildkite.yml"
SCHEMAS = {WORKFLOW: "vendor.github-workflows", PIPELINE: "vendor.buildkite"}


def complaints(path: Path, schema: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "check_jsonschema", "--builtin-schema", schema, str(path)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    return "" if done.returncode == 0 else done.stdout + done.stderr


@pytest.mark.parametrize("name", SCHEMAS)
def test_the_committed_files_are_valid(name: str) -> None:
    assert complaints(ROOT / name, SCHEMAS[name]) == ""


def everything(repository: Any) -> None:
    """Every kind of job: by day, nightly, self-hosted, without tests, of several shards."""
    repository.add_tests("test_day.py", "def test_1(): pass\n")
    repository.add_tests("test_night.py", "def test_2(): pass\n", more=", nightly=True")
    text = (
        "from scripted_registry.ci import register_ci\n"
        'register_ci(900, backend="npu", stage="deep", runner_config="8-npu", nightly={nightly})\n'
    )
    for number in range(6):
        repository.write(f"tests/test_deep_{number}.py", text.format(nightly=number % 2 == 0))
    repository.registered()


def test_files_with_every_kind_of_job_are_valid(repository: Any) -> None:
    everything(repository)
    for name, schema in SCHEMAS.items():
        assert complaints(repository.root / name, schema) == ""
    workflow = yaml.safe_load((repository.root / WORKFLOW).read_text())
    assert set(workflow["jobs"]) == {
        "registered",
        "on-cpu",
        "on-cpu-nightly",
        "on-8-npu",
        "on-8-npu-nightly",
    }
    for name, job in workflow["jobs"].items():
        assert ("schedule" in job.get("if", "")) == name.endswith("-nightly")
        assert "matrix." not in job.get("if", ""), (
            "a job's condition is evaluated before its matrix"
        )
    steps = yaml.safe_load((repository.root / PIPELINE).read_text())["steps"][2:]
    keys = [step["key"] for step in steps]
    assert len(keys) == len(set(keys))
    for step in steps:
        assert ("--nightly" in step["commands"][-1]) == ("if" in step)


@pytest.mark.parametrize(
    ("name", "good", "bad"),
    [
        (WORKFLOW, "runs-on:", "runs-of:"),
        (PIPELINE, "timeout_in_minutes: ", "timeout_in_minutes: x"),
    ],
)
def test_the_schemas_do_find_mistakes(tmp_path: Path, name: str, good: str, bad: str) -> None:
    text = (ROOT / name).read_text()
    assert good in text
    (tmp_path / "broken.yml").write_text(text.replace(good, bad))
    assert complaints(tmp_path / "broken.yml", SCHEMAS[name]) != ""
