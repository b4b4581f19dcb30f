"""What `ci:register` lists: the registered runners, stages and tests, and what does not fit."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from scripted_registry._nearest import listed, nearest
from scripted_registry.ci.errors import CiProblem, CiRegistrationError
from scripted_registry.ci.scan import CiBackend, CiRegistration
from scripted_registry.specs import CiRunner, CiStage

LISTING_VERSION = 1


@dataclass(frozen=True, kw_only=True)
class StageRow:
    """One stage on one kind of runner, with the tests that are registered for it."""

    stage: CiStage
    tests: tuple[CiRegistration, ...]

    @property
    def enabled(self) -> tuple[CiRegistration, ...]:
        """The tests that are not disabled."""
        return tuple(test for test in self.tests if test.disabled is None)

    @property
    def est_time_s(self) -> float | None:
        """The sum over its enabled tests, else the stage's own estimate, else `None`."""
        if self.enabled:
            return sum(test.est_time_s for test in self.enabled)
        return self.stage.est_time_s


@dataclass(frozen=True, kw_only=True)
class CiListing:
    """All stages with their tests; `problems` are the tests that fit none."""

    runners: tuple[CiRunner, ...]
    rows: tuple[StageRow, ...]
    problems: tuple[CiProblem, ...]

    def check(self) -> None:
        """Raise `CiRegistrationError` when there are problems."""
        if self.problems:
            raise CiRegistrationError(
                self.problems,
                hint="stages come from installed distributions, through "
                "scripted_register_ci_stages: install the one that brings the stage",
            )

    def as_dict(self) -> dict[str, object]:
        """Return the listing as plain data, for JSON."""
        return {
            "version": LISTING_VERSION,
            "runners": [
                {
                    "name": runner.name,
                    "summary": runner.summary,
                    "labels": list(runner.labels),
                    "gpus": runner.gpus,
                    "distribution": runner.distribution,
                }
                for runner in self.runners
            ],
            "stages": [_row_as_dict(row) for row in self.rows],
            "problems": [
                {
                    "path": problem.path.as_posix(),
                    "line": problem.line,
                    "message": problem.message,
                }
                for problem in self.problems
            ],
        }


def build_listing(
    *,
    runners: Mapping[str, CiRunner],
    stages: Mapping[str, CiStage],
    registrations: Iterable[CiRegistration],
    problems: Iterable[CiProblem] = (),
) -> CiListing:
    """Put each registration to its stage; `stages` are by suite name.

    What fits none is added to `problems`, which are those that were found before.
    """
    tests: dict[str, list[CiRegistration]] = {suite: [] for suite in stages}
    problems = list(problems)
    for registration in registrations:
        message = _misfit(registration, stages, runners)
        if message is None:
            tests[registration.suite].append(registration)
            continue
        problems.append(CiProblem(path=registration.path, line=registration.line, message=message))
    return CiListing(
        runners=tuple(runners.values()),
        rows=tuple(
            StageRow(stage=stage, tests=tuple(tests[suite])) for suite, stage in stages.items()
        ),
        problems=tuple(problems),
    )


def _misfit(
    registration: CiRegistration, stages: Mapping[str, CiStage], runners: Mapping[str, CiRunner]
) -> str | None:
    """Why no stage runs this, or `None`."""
    stage = stages.get(registration.suite)
    if stage is None:
        return _no_stage(registration, stages)
    if not stage.takes_tests:
        return f"the command of stage {stage.name!r} has no {{tests}}: this would never run"
    return _wrong_backend(registration, runners[stage.runner])


def _wrong_backend(registration: CiRegistration, runner: CiRunner) -> str | None:
    """What is wrong with a test for one kind of device on a runner; any runner has a CPU."""
    if registration.backend in (CiBackend.CPU, runner.backend):
        return None
    if registration.backend == CiBackend.CUDA and runner.gpus == 0:
        return f"{registration.function} for runner {runner.name!r}, which has no GPU"
    return (
        f"{registration.function} for backend {registration.backend!r} on runner {runner.name!r}, "
        f"which has {runner.backend!r}"
    )


def _no_stage(registration: CiRegistration, stages: Mapping[str, CiStage]) -> str:
    if registration.stage is None or registration.runner_config is None:
        match = nearest(registration.suite, stages)
        return f"nobody registered the stage of suite {registration.suite!r}; " + (
            f"did you mean {match!r}?" if match else f"there are: {listed(stages)}"
        )
    name, runner = registration.stage, registration.runner_config
    on_runners = [stage.runner for stage in stages.values() if stage.name == name]
    if on_runners:
        return (
            f"stage {name!r} is not registered for runner {runner!r}, but for {listed(on_runners)}"
        )
    names = {stage.name for stage in stages.values()}
    match = nearest(name, names)
    return f"nobody registered stage {name!r} (runner {runner!r}); " + (
        f"did you mean {match!r}?" if match else f"there are: {listed(names)}"
    )


def _row_as_dict(row: StageRow) -> dict[str, object]:
    stage = row.stage
    return {
        "name": stage.name,
        "runner": stage.runner,
        "suite": stage.suite,
        "summary": stage.summary,
        "engine": stage.engine,
        "env": dict(stage.env),
        "packages": list(stage.packages),
        "command": stage.command,
        "nightly": stage.nightly,
        "est_time_s": row.est_time_s,
        "distribution": stage.distribution,
        "tests": [
            {
                "path": test.path.as_posix(),
                "line": test.line,
                "backend": str(test.backend),
                "est_time_s": test.est_time_s,
                "nightly": test.nightly,
                "disabled": test.disabled,
            }
            for test in row.tests
        ],
    }
