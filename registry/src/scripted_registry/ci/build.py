"""From what is registered and what was measured to the manifest."""

from __future__ import annotations

import math
from collections.abc import Iterable

from scripted_registry.ci.listing import CiListing, StageRow
from scripted_registry.ci.manifest import (
    Manifest,
    ManifestFile,
    ManifestRun,
    ManifestRunner,
    ManifestStage,
)
from scripted_registry.ci.partition import Job, Partition, partition
from scripted_registry.ci.scan import CiRegistration
from scripted_registry.ci.settings import CiSettings
from scripted_registry.ci.timings import SuiteTimings, Timings
from scripted_registry.specs import CiStage

MOST_SHARDS = 64


def build_manifest(listing: CiListing, *, settings: CiSettings, timings: Timings) -> Manifest:
    """Return the manifest of everything in `listing`."""
    return Manifest(
        runners=tuple(
            ManifestRunner(
                name=runner.name,
                summary=runner.summary,
                labels=tuple(runner.labels),
                gpus=runner.gpus,
                backend=runner.backend,
                distribution=runner.distribution,
            )
            for runner in listing.runners
        ),
        stages=tuple(
            _stage(row, settings=settings, timings=timings.suite(row.stage.suite))
            for row in listing.rows
        ),
    )


def expected_jobs(files: Iterable[ManifestFile], timings: SuiteTimings) -> list[Job]:
    """Every recorded test of `files`; a file of which none was recorded is one job."""
    jobs: list[Job] = []
    for file in files:
        jobs += timings.file_jobs(file.path) or [Job(name=file.path, cost_s=file.est_time_s)]
    return jobs


def expected_partition(stage: ManifestStage, run: ManifestRun, timings: SuiteTimings) -> Partition:
    """How the recorded tests of a run are divided among its shards."""
    jobs = expected_jobs(stage.files_of(nightly=run.nightly), timings)
    return partition(jobs, shards=run.shards, starts=timings.starts_of(jobs))


def _stage(row: StageRow, *, settings: CiSettings, timings: SuiteTimings) -> ManifestStage:
    stage = row.stage
    environment = (
        stage.environment or settings.environments.get(stage.engine or "") or settings.environment
    )
    manifest = ManifestStage(
        name=stage.name,
        runner=stage.runner,
        suite=stage.suite,
        summary=stage.summary,
        distribution=stage.distribution,
        engine=stage.engine,
        environment=environment,
        packages=tuple(stage.packages),
        setup=(*settings.setup.get(environment or "", ()), *stage.setup),
        env=dict(sorted(stage.env.items())),
        command=stage.command,
        nightly=stage.nightly,
        runs=(),
        files=tuple(map(_file, sorted(row.tests, key=lambda test: test.path.as_posix()))),
    )
    runs = [_run(stage, manifest, timings, nightly=nightly) for nightly in (False, True)]
    fields = {name: getattr(manifest, name) for name in ManifestStage.__dataclass_fields__}
    return ManifestStage(**{**fields, "runs": tuple(run for run in runs if run is not None)})


def _file(test: CiRegistration) -> ManifestFile:
    return ManifestFile(
        path=test.path.as_posix(),
        backend=str(test.backend),
        est_time_s=test.est_time_s,
        nightly=test.nightly,
        disabled=test.disabled,
    )


def _run(
    stage: CiStage, manifest: ManifestStage, timings: SuiteTimings, *, nightly: bool
) -> ManifestRun | None:
    if not stage.takes_tests:
        if nightly != stage.nightly:
            return None
        est = None if stage.est_time_s is None else math.ceil(stage.est_time_s)
        return ManifestRun(nightly=nightly, shards=1, est_time_s=est, longest_shard_s=est)
    jobs = expected_jobs(manifest.files_of(nightly=nightly), timings)
    if not jobs:
        return None
    divided = _divided(stage, jobs, timings)
    return ManifestRun(
        nightly=nightly,
        shards=len(divided.shards),
        est_time_s=math.ceil(sum(shard.cost_s for shard in divided.shards)),
        longest_shard_s=math.ceil(divided.makespan_s),
    )


def _divided(stage: CiStage, jobs: list[Job], timings: SuiteTimings) -> Partition:
    """The partition into the stage's own number of shards, or the first that is short enough."""
    starts = timings.starts_of(jobs)
    if stage.shards is not None:
        return partition(jobs, shards=stage.shards, starts=starts)
    longest = max(job.cost_s + starts.get(job.group or "", 0.0) for job in jobs)
    wanted_s = max(stage.shard_target_s, longest)
    most = min(len(jobs), MOST_SHARDS)
    total = sum(job.cost_s for job in jobs) + sum(starts.values())
    shards = min(most, max(1, math.ceil(total / wanted_s)))
    while True:
        divided = partition(jobs, shards=shards, starts=starts)
        if divided.makespan_s <= wanted_s or shards >= most:
            return divided
        shards += 1
