"""The manifest as pipelines of schedulers that exist: GitHub Actions and Buildkite.

Both name each shard with its whole command line, instead of counting shards in the scheduler's own
variables, so that what runs there can be run anywhere.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from scripted_registry.ci.manifest import Manifest
from scripted_registry.ci.pipeline_jobs import RESULTS_FOLDER, PipelineJob, pipeline_jobs
from scripted_registry.ci.settings import CiSettings
from scripted_registry.errors import ConfigError

GITHUB_PATH = Path(".github/workflows/stages.yml")
BUILDKITE_PATH = Path("ci/buildkite.yml")
RUNNERS_VARIABLE = "SCRIPTED_CI_RUNNERS"
"""A repository's variable (GitHub) that names the self-hosted runner kinds it has, by spaces."""

_HEADER = (
    "# Generated from ci/manifest.json: do not edit. To write it anew: scripted ci register\n"
    "# (in this project's own repository: hatch run ci:register)\n"
)
_NIGHTLY_CRON = "17 3 * * *"
_PYTHON = "3.11"


def github_workflow(manifest: Manifest, settings: CiSettings) -> str:
    """Return the workflow: a check of the generated files, then a matrix for each runner kind.

    A job on a self-hosted runner kind waits for ever where nobody has one, so it runs only if the
    repository's variable `SCRIPTED_CI_RUNNERS` names that kind.
    """
    jobs: dict[str, Any] = {
        "registered": {
            "runs-on": "ubuntu-latest",
            "timeout-minutes": 15,
            "steps": [*_github_setup(), {"run": _script([*settings.prepare, *settings.check])}],
        }
    }
    found = list(pipeline_jobs(manifest, settings))
    for runner in manifest.runners:
        for nightly in (False, True):
            matrix = [j for j in found if j.runner == runner and j.run.nightly == nightly]
            if matrix:
                # A job's id begins with a letter.
                name = f"on-{runner.name}{'-nightly' if nightly else ''}".replace(".", "-")
                jobs[name] = _github_job(matrix, nightly=nightly)
    return _yaml(
        {
            "name": "stages",
            "on": {
                "push": {"branches": ["main"]},
                "pull_request": {},
                "schedule": [{"cron": _NIGHTLY_CRON}],
                "workflow_dispatch": {},
            },
            "permissions": {"contents": "read"},
            "concurrency": {
                "group": "${{ github.workflow }}-${{ github.ref }}",
                "cancel-in-progress": "${{ github.event_name == 'pull_request' }}",
            },
            "jobs": jobs,
        }
    )


def buildkite_pipeline(manifest: Manifest, settings: CiSettings) -> str:
    """Return the pipeline: a check of the generated files, then a step for each shard.

    An agent takes a runner kind's steps when its queue has the runner's name. Nightly steps run in
    scheduled builds.
    """
    found = list(pipeline_jobs(manifest, settings))
    kinds = [r.name for r in manifest.runners if not r.gpus] or [r.name for r in manifest.runners]
    steps: list[Any] = [
        {
            "label": "registered",
            "key": "registered",
            "commands": _for_buildkite([*settings.prepare, *settings.check]),
            "agents": {"queue": kinds[0]},
            "timeout_in_minutes": 15,
        },
        "wait",
        *map(_buildkite_step, found),
    ]
    return _yaml({"steps": steps})


def _github_job(matrix: Iterable[PipelineJob], *, nightly: bool) -> dict[str, Any]:
    entries = [
        {
            "name": job.name,
            "artifact": _artifact(job),
            "timeout": job.timeout_min,
            "prepare": _script(job.prepare) or "true",
            "command": job.command,
        }
        for job in matrix
    ]
    runner = next(iter(matrix)).runner
    conditions = []
    if nightly:
        conditions += [
            'contains(fromJSON(\'["schedule", "workflow_dispatch"]\'), github.event_name)'
        ]
    if "self-hosted" in runner.labels:
        named = f"format(' {{0}} ', vars.{RUNNERS_VARIABLE})"
        conditions += [f"contains({named}, ' {runner.name} ')"]
    job: dict[str, Any] = {"name": "${{ matrix.name }}", "needs": "registered"}
    if conditions:
        job["if"] = " && ".join(conditions)
    return job | {
        "runs-on": list(runner.labels),
        "timeout-minutes": "${{ matrix.timeout }}",
        "strategy": {"fail-fast": False, "matrix": {"include": entries}},
        "steps": [
            *_github_setup(),
            {"name": "prepare", "run": "${{ matrix.prepare }}"},
            {"name": "run", "run": "${{ matrix.command }}"},
            {
                "name": "keep the results",
                "if": "always()",
                "uses": "actions/upload-artifact@v4",
                "with": {"name": "${{ matrix.artifact }}", "path": RESULTS_FOLDER},
            },
        ],
    }


def _github_setup() -> list[dict[str, Any]]:
    return [
        {"uses": "actions/checkout@v4"},
        {"uses": "actions/setup-python@v5", "with": {"python-version": _PYTHON}},
    ]


def _buildkite_step(job: PipelineJob) -> dict[str, Any]:
    step: dict[str, Any] = {
        "label": job.name,
        "key": _artifact(job),
        "commands": _for_buildkite([*job.prepare, job.command]),
        "agents": {"queue": job.runner.name},
        "artifact_paths": [f"{RESULTS_FOLDER}/*"],
        "timeout_in_minutes": job.timeout_min,
    }
    if job.run.nightly:
        step["if"] = 'build.source == "schedule"'
    return step


def _artifact(job: PipelineJob) -> str:
    nightly = "-nightly" if job.run.nightly else ""
    return f"{job.stage.suite}{nightly}-{job.shard}-of-{job.run.shards}".replace(".", "-")


def _for_buildkite(commands: Iterable[str]) -> list[str]:
    """Its upload replaces `$NAME` unless it is written as `$$NAME`."""
    return [command.replace("$", "$$") for command in commands]


def _script(commands: Iterable[str]) -> str:
    return "\n".join(commands)


def _yaml(data: Mapping[str, Any]) -> str:
    try:
        import yaml
    except ImportError:
        raise ConfigError(
            "PyYAML is missing, which pipelines are written with",
            hint="pip install 'scripted-registry[ci]'",
        ) from None

    class Dumper(yaml.SafeDumper):  # type: ignore[misc]
        """Writes text of several lines as a block."""

    def of_text(dumper: Any, text: str) -> Any:
        style = "|" if "\n" in text else None
        return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)

    Dumper.add_representer(str, of_text)
    text = yaml.dump(data, Dumper=Dumper, sort_keys=False, width=1000, allow_unicode=True)
    return f"{_HEADER}{text}"
