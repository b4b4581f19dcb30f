"""`ci/manifest.json`: what CI runs, as plain data.

It is generated from what plugins and tests register, is committed, and is what pipelines are
generated from and what `scripted ci run` reads. Nothing in it depends on the machine or on what is
installed there beside the plugins: no versions, no absolute paths, no line numbers.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from scripted_registry._nearest import listed, nearest
from scripted_registry.ci.errors import ManifestError

MANIFEST_VERSION = 1
MANIFEST_PATH = Path("ci/manifest.json")
TIMINGS_PATH = Path("ci/timings.json")


@dataclass(frozen=True, kw_only=True)
class ManifestRunner:
    """A kind of machine; see `CiRunner`."""

    name: str
    summary: str
    labels: tuple[str, ...]
    gpus: int
    backend: str
    distribution: str | None


@dataclass(frozen=True, kw_only=True)
class ManifestFile:
    """A test file of a stage. `nightly` ones run at night only, `disabled` ones never."""

    path: str
    backend: str
    est_time_s: float
    nightly: bool
    disabled: str | None


@dataclass(frozen=True, kw_only=True)
class ManifestRun:
    """One pass over a stage: its by-day or its nightly files, in how many shards."""

    nightly: bool
    shards: int
    est_time_s: int | None
    longest_shard_s: int | None


@dataclass(frozen=True, kw_only=True)
class ManifestStage:
    """A stage on one kind of runner; see `CiStage`. `runs` is empty when it has nothing to do."""

    name: str
    runner: str
    suite: str
    summary: str
    distribution: str | None
    engine: str | None
    environment: str | None
    packages: tuple[str, ...]
    setup: tuple[str, ...]
    env: Mapping[str, str]
    command: str
    nightly: bool
    runs: tuple[ManifestRun, ...]
    files: tuple[ManifestFile, ...]

    @property
    def takes_tests(self) -> bool:
        """Whether the command runs the registered tests."""
        return "{tests}" in self.command

    def files_of(self, *, nightly: bool) -> tuple[ManifestFile, ...]:
        """The enabled files of the by-day or of the nightly run; together they are all."""
        return tuple(
            file
            for file in self.files
            if file.disabled is None and (self.nightly or file.nightly) == nightly
        )

    def run_of(self, *, nightly: bool) -> ManifestRun | None:
        """The by-day or the nightly run, `None` when the stage has none."""
        return next((run for run in self.runs if run.nightly == nightly), None)


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """All runners and stages."""

    runners: tuple[ManifestRunner, ...]
    stages: tuple[ManifestStage, ...]

    def as_json(self) -> str:
        """The file's text."""
        data = {
            "version": MANIFEST_VERSION,
            "runners": [asdict(runner) for runner in self.runners],
            "stages": [asdict(stage) for stage in self.stages],
        }
        return json.dumps(data, indent=1, ensure_ascii=False) + "\n"

    def runner(self, name: str) -> ManifestRunner:
        """The runner called `name`."""
        return next(runner for runner in self.runners if runner.name == name)

    def stage(self, name: str, *, runner: str | None = None) -> ManifestStage:
        """The stage called `name`, or of that suite, on `runner`, or on the only one that it has.

        Raises `ManifestError` with the nearest name for an unknown one.
        """
        named = [stage for stage in self.stages if name in (stage.name, stage.suite)]
        if not named:
            names = {stage.name for stage in self.stages}
            match = nearest(name, names)
            raise ManifestError(
                f"there is no stage {name!r}; there are: {listed(names)}",
                hint=f"did you mean {match!r}?"
                if match
                else "stages come from installed packages: run `scripted ci register` after "
                "installing one",
            )
        runners = [stage.runner for stage in named]
        if runner is None:
            if len(named) > 1:
                raise ManifestError(
                    f"stage {name!r} is on several runners: {listed(runners)}",
                    hint=f"say which: --runner {runners[0]}",
                )
            return named[0]
        for stage in named:
            if stage.runner == runner:
                return stage
        match = nearest(runner, runners)
        raise ManifestError(
            f"stage {name!r} is not on runner {runner!r}, but on {listed(runners)}",
            hint=f"did you mean {match!r}?" if match else f"say --runner {runners[0]}",
        )


def read_manifest(path: Path) -> Manifest:
    """Return what `path` holds; `ManifestError` says what to type when that cannot be."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ManifestError(
            f"there is no {path} here",
            hint="run it from the root of the repository; `scripted ci register` (here: "
            "`python -m scripted_registry register`) writes it",
        ) from None
    except (OSError, ValueError) as error:
        raise _unusable(path, str(error)) from error
    try:
        if data["version"] != MANIFEST_VERSION:
            raise _unusable(path, f"version {data['version']!r}, this reads {MANIFEST_VERSION}")
        suites = [stage["suite"] for stage in data["stages"]]
        if len(set(suites)) < len(suites):  # what a merge of two branches can make of it
            raise _unusable(path, "it has a stage twice")
        return Manifest(
            runners=tuple(
                ManifestRunner(**{**runner, "labels": tuple(runner["labels"])})
                for runner in data["runners"]
            ),
            stages=tuple(map(_stage, data["stages"])),
        )
    except (KeyError, TypeError) as error:
        raise _unusable(path, f"{type(error).__name__}: {error}") from error


def _stage(data: Mapping[str, Any]) -> ManifestStage:
    return ManifestStage(
        **{
            **data,
            "packages": tuple(data["packages"]),
            "setup": tuple(data["setup"]),
            "runs": tuple(ManifestRun(**run) for run in data["runs"]),
            "files": tuple(ManifestFile(**file) for file in data["files"]),
        }
    )


def _unusable(path: Path, why: str) -> ManifestError:
    return ManifestError(
        f"{path} cannot be used: {why}", hint="`scripted ci register` writes it anew"
    )
