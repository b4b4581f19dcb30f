"""Every command line of the generated pipelines is run here, as far as it can be."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from scripted_registry.ci import register_cpu_ci
from scripted_registry.ci.manifest import read_manifest
from scripted_registry.ci.pipeline_jobs import PipelineJob, pipeline_jobs
from scripted_registry.ci.settings import read_settings

register_cpu_ci(est_time=95, stage="unit", runner_config="cpu")

ROOT = Path(__file__).parents[2]
JOBS = list(pipeline_jobs(read_manifest(ROOT / "ci/manifest.json"), read_settings(ROOT)))
# Shards of one run differ in a number only; the last one is run, whose number is the largest.
LAST = [job for job in JOBS if job.shard == job.run.shards]
REALLY = "unit"
"""The stage of which some tests are really run, which collects all of its tests as well."""


def here(command: str) -> list[str]:
    """The command line without the environment that hatch would make for it."""
    words = shlex.split(command)
    if words[:2] == ["hatch", "run"]:
        words = [words[2].partition(":")[2], *words[3:]]
    assert words[:3] == ["scripted", "ci", "run"]
    return [sys.executable, "-m", "scripted_registry", *words[2:]]


def run(command: list[str]) -> subprocess.CompletedProcess[str]:
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(("PYTEST_", "GITHUB_"))}
    return subprocess.run(
        command, cwd=ROOT, env=inherited, text=True, capture_output=True, timeout=300, check=False
    )


@pytest.mark.parametrize(
    "job", [job for job in LAST if job.stage.name != REALLY], ids=lambda job: job.name
)
def test_the_command_collects_its_shard(job: PipelineJob) -> None:
    done = run([*here(job.command), "--dry-run"])
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    if job.stage.takes_tests:
        found = re.search(rf"^shard {job.shard}/{job.run.shards}: (\d+) of", done.stdout, re.M)
        assert found is not None
        assert int(found[1]) > 0


@pytest.mark.parametrize("job", JOBS, ids=lambda job: job.name)
def test_both_pipelines_have_the_command(job: PipelineJob) -> None:
    workflow = yaml.safe_load((ROOT / ".github/workflows/stages.yml").read_text())
    entries = [
        entry["command"]
        for name, one in workflow["jobs"].items()
        if name != "registered"
        for entry in one["strategy"]["matrix"]["include"]
    ]
    assert entries.count(job.command) == 1
    steps = yaml.safe_load((ROOT / "ci/buildkite.yml").read_text())["steps"]
    commands = [step["commands"][-1] for step in steps if isinstance(step, dict)]
    assert commands.count(job.command) == 1


def test_a_command_of_a_cpu_stage_runs() -> None:
    """Really, and in little: the cheapest of its tests."""
    (command,) = [job.command for job in LAST if job.stage.name == REALLY]
    words = shlex.split(command)
    words[words.index("--shard") + 1] = "1/1"
    words = words[: words.index("--output")]
    chosen = "test_durations_are_for_people or test_a_shard_pays_a_start_once"
    done = run([*here(shlex.join(words)), "--", "-k", chosen])
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    assert re.search(r"unit on cpu, shard 1/1: passed: \d+ passed", done.stdout)
