"""The command lines that pipelines run: each of them can be typed as it stands."""

from __future__ import annotations

import math
import shlex
from collections.abc import Iterator
from dataclasses import dataclass

from scripted_registry.ci.manifest import Manifest, ManifestRun, ManifestRunner, ManifestStage
from scripted_registry.ci.settings import CiSettings

RESULTS_FOLDER = "ci-results"
_LEAST_TIMEOUT_MIN = 30


@dataclass(frozen=True, kw_only=True)
class PipelineJob:
    """One shard of one run of a stage: `prepare` command lines, then `command`."""

    stage: ManifestStage
    runner: ManifestRunner
    run: ManifestRun
    shard: int
    prepare: tuple[str, ...]
    command: str

    @property
    def name(self) -> str:
        """For people, unique in its pipeline: "single on cpu 1/2"."""
        nightly = ", nightly" if self.run.nightly else ""
        return f"{self.stage.name} on {self.runner.name} {self.shard}/{self.run.shards}{nightly}"

    @property
    def timeout_min(self) -> int:
        """Minutes after which a scheduler ends it: four times what is expected, 30 at least."""
        expected = self.run.longest_shard_s or 0
        return max(_LEAST_TIMEOUT_MIN, math.ceil(4 * expected / 60))


def pipeline_jobs(manifest: Manifest, settings: CiSettings) -> Iterator[PipelineJob]:
    """Yield every shard of every run, in the manifest's order."""
    for stage in manifest.stages:
        runner = manifest.runner(stage.runner)
        for run in stage.runs:
            for shard in range(1, run.shards + 1):
                yield PipelineJob(
                    stage=stage,
                    runner=runner,
                    run=run,
                    shard=shard,
                    prepare=_prepare(stage, settings),
                    command=shard_command(stage, nightly=run.nightly, shard=shard, of=run.shards),
                )


def shard_command(stage: ManifestStage, *, nightly: bool, shard: int, of: int) -> str:
    """Return the command line of one shard, in the stage's environment."""
    words = ["scripted", "ci", "run", "--stage", stage.name, "--runner", stage.runner]
    words += ["--shard", f"{shard}/{of}"]
    words += ["--nightly"] * nightly
    words += ["--output", RESULTS_FOLDER]
    if stage.environment is not None:
        words = ["hatch", "run", f"{stage.environment}:scripted", *words[1:]]
    return shlex.join(words)


def _prepare(stage: ManifestStage, settings: CiSettings) -> tuple[str, ...]:
    if stage.environment is not None or not stage.packages:
        return settings.prepare
    return (*settings.prepare, shlex.join(["python", "-m", "pip", "install", *stage.packages]))
