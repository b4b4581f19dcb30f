"""Running one shard of a stage: its command, with our plugin in its pytest, and what came of it."""

from __future__ import annotations

import os
import shlex
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from scripted_registry.ci.child import run_shell
from scripted_registry.ci.errors import StageCommandError
from scripted_registry.ci.exchange import (
    ADDOPTS_VARIABLE,
    REQUEST_VARIABLE,
    ShardReply,
    ShardRequest,
    read_reply,
)
from scripted_registry.ci.manifest import ManifestFile, ManifestStage
from scripted_registry.ci.results import ReportLog, TestResult, merged, read_report_log
from scripted_registry.ci.shard_name import ShardName
from scripted_registry.ci.timings import read_timings, split_nodeid
from scripted_registry.errors import ConfigError

_PLUGIN = "scripted_registry.ci.pytest_shard"
_PYTEST_NOTHING_COLLECTED = 5


@dataclass(frozen=True, kw_only=True)
class ShardPlan:
    """What to run: the stage's by-day or nightly files, which part of them, how often."""

    root: Path
    stage: ManifestStage
    nightly: bool
    shard: ShardName
    retries: int
    timings: Path
    arguments: tuple[str, ...] = ()

    @property
    def files(self) -> tuple[ManifestFile, ...]:
        """The registered files of this run, those that are not disabled."""
        return self.stage.files_of(nightly=self.nightly)


@dataclass(kw_only=True)
class ShardOutcome:
    """How it went. `reply` is `None` when the command ran no pytest that listened to us.

    `statuses` are the command's exit statuses, one for each attempt.
    """

    plan: ShardPlan
    reply: ShardReply | None
    results: list[TestResult]
    collection_errors: list[tuple[str, str]]
    statuses: list[int]
    wall_s: float
    interrupted: bool = False

    @property
    def failed(self) -> bool:
        """Whether anything is wrong, be it only the command's exit status."""
        if self.interrupted or self.collection_errors:
            return True
        if any(result.outcome.is_bad for result in self.results):
            return True
        # With retries the first pass failed; that its failures passed later is in the results.
        status = self.statuses[-1] if self.statuses else 0
        if status == _PYTEST_NOTHING_COLLECTED and self.reply is not None:
            return self.reply.collected == 0  # otherwise this shard is an empty one
        return status != 0


def check_plan(plan: ShardPlan) -> None:
    """Raise `ConfigError` for a plan that would run nothing, or not what was asked for."""
    stage = plan.stage
    if plan.retries < 0:
        raise ConfigError(
            f"--retries {plan.retries} is no number of retries", hint="0 is the default: none"
        )
    if not stage.takes_tests:
        if plan.shard.of > 1:
            raise ConfigError(
                f"stage {stage.name!r} cannot be divided: its command has no {{tests}}",
                hint="leave --shard out",
            )
        return
    if not plan.files:
        other = "nightly" if not plan.nightly else "by-day"
        has_other = bool(stage.files_of(nightly=not plan.nightly))
        raise ConfigError(
            f"no test file is registered for {'a nightly' if plan.nightly else 'a by-day'} run of "
            f"stage {stage.name!r} on {stage.runner}",
            hint=f"it has {other} files: {'leave out' if plan.nightly else 'add'} --nightly"
            if has_other
            else "write register_cpu_ci(...) or register_cuda_ci(...) in one, then run "
            "`scripted ci register`",
        )
    missing = [file.path for file in plan.files if not (plan.root / file.path).is_file()]
    if missing:
        raise ConfigError(
            f"registered for stage {stage.name!r} and not there: {', '.join(missing)}",
            hint="run it from the root of the repository; `scripted ci register` brings the "
            "manifest up to date",
        )
    read_timings(plan.timings)  # here a file that is none is a message, in pytest a crash
    if find_spec("pytest_reportlog") is None:
        raise ConfigError(
            "pytest-reportlog is missing, which results are read from",
            hint="pip install 'scripted-registry[ci]'",
        )


def run_shard(plan: ShardPlan, *, scratch: Path) -> ShardOutcome:
    """Run the stage's setup, its command, and its failed tests again as often as allowed.

    `scratch` is an empty folder; the report log of each attempt is there afterwards
    (`report_log_path`). Ctrl-C ends it with what there is until then, and `interrupted`.
    Raises `StageCommandError` when the setup fails, or when a divided stage ran undivided.
    """
    check_plan(plan)
    outcome = ShardOutcome(
        plan=plan, reply=None, results=[], collection_errors=[], statuses=[], wall_s=0.0
    )
    began = time.monotonic()
    runs: list[ReportLog] = []
    selected: list[str] = []
    try:
        _set_up(plan)
        only: tuple[str, ...] | None = None
        for attempt in range(1 + plan.retries):
            _run_once(plan, outcome, attempt=attempt, only=only, scratch=scratch)
            runs += _logs(scratch, [attempt])
            if attempt == 0 and outcome.reply is not None:
                selected = [test.nodeid for test in outcome.reply.selected]
            results = merged(runs, selected=selected)
            only = tuple(result.nodeid for result in results if result.outcome.is_bad)
            if not only:
                break
    except KeyboardInterrupt:
        outcome.interrupted = True
        runs = _logs(scratch, range(1 + plan.retries))
        if outcome.reply is None:
            outcome.reply = read_reply(scratch / "reply-0.json")
        if outcome.reply is not None:
            selected = [test.nodeid for test in outcome.reply.selected]
    outcome.results = merged(runs, selected=selected)
    outcome.collection_errors = [error for run in runs[:1] for error in run.collection_errors]
    outcome.wall_s = time.monotonic() - began
    return outcome


def collect_shard(plan: ShardPlan, *, scratch: Path) -> tuple[ShardReply | None, int]:
    """Only collect: return what the shard would run, and the command's exit status.

    What the command printed is in `scratch / "collected.txt"`.
    """
    check_plan(plan)
    if not plan.stage.takes_tests:
        return None, 0
    request = _request(plan, scratch, attempt=0, only=None)
    env = _environ(plan, request, ["--collect-only", "-q", "-q"])
    output = scratch / "collected.txt"
    status = run_shell(_command(plan, None), cwd=plan.root, env=env, output=output)
    return read_reply(scratch / "reply-0.json"), status


def _set_up(plan: ShardPlan) -> None:
    for command in plan.stage.setup:
        status = run_shell(command, cwd=plan.root, env={**os.environ, **plan.stage.env})
        if status != 0:
            raise StageCommandError(
                f"the setup of stage {plan.stage.name!r} failed with {status}: {command}",
                hint="run it by itself; stages are described in ci/manifest.json",
            )


def _run_once(
    plan: ShardPlan,
    outcome: ShardOutcome,
    *,
    attempt: int,
    only: tuple[str, ...] | None,
    scratch: Path,
) -> None:
    if not plan.stage.takes_tests:
        plain = {**os.environ, **plan.stage.env}
        outcome.statuses.append(run_shell(_command(plan, None), cwd=plan.root, env=plain))
        return
    request = _request(plan, scratch, attempt=attempt, only=only)
    env = _environ(plan, request, [f"--report-log={report_log_path(scratch, attempt)}"])
    outcome.statuses.append(run_shell(_command(plan, only), cwd=plan.root, env=env))
    reply = read_reply(scratch / f"reply-{attempt}.json")
    if attempt == 0:
        outcome.reply = reply
        if reply is None and outcome.statuses[-1] == 0 and plan.shard.of > 1:
            raise StageCommandError(
                f"the command of stage {plan.stage.name!r} runs no pytest that can be told what "
                f"shard {plan.shard} is: it ran everything",
                hint="let its command be a pytest command line, or its CiStage say shards=1",
            )


def _request(plan: ShardPlan, scratch: Path, *, attempt: int, only: tuple[str, ...] | None) -> Path:
    path = scratch / f"request-{attempt}.json"
    ShardRequest(
        suite=plan.stage.suite,
        shard=plan.shard.index,
        shards=plan.shard.of,
        timings=str(plan.timings),
        est_time_s={file.path: file.est_time_s for file in plan.files},
        reply=str(scratch / f"reply-{attempt}.json"),
        only=only,
        addopts=os.environ.get(ADDOPTS_VARIABLE),
    ).write(path)
    return path


def _environ(plan: ShardPlan, request: Path, options: Sequence[str]) -> Mapping[str, str]:
    added = shlex.join(["-p", _PLUGIN, *options])
    given = os.environ.get(ADDOPTS_VARIABLE, "")
    return {
        **os.environ,
        **plan.stage.env,
        ADDOPTS_VARIABLE: f"{given} {added}".strip(),
        REQUEST_VARIABLE: str(request),
    }


def _command(plan: ShardPlan, only: tuple[str, ...] | None) -> str:
    files = [file.path for file in plan.files]
    if only is not None:
        wanted = {split_nodeid(nodeid)[0] for nodeid in only}
        files = [path for path in files if path in wanted] or files
    command = plan.stage.command.replace("{tests}", shlex.join(files))
    return f"{command} {shlex.join(plan.arguments)}" if plan.arguments else command


def report_log_path(scratch: Path, attempt: int) -> Path:
    """Where pytest writes the report log of an attempt, the first of which is 0."""
    return scratch / f"attempt-{attempt}.jsonl"


def _logs(scratch: Path, attempts: Sequence[int]) -> list[ReportLog]:
    paths = [report_log_path(scratch, attempt) for attempt in attempts]
    return [read_report_log(path) for path in paths if path.is_file()]
