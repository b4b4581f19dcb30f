"""A campaign: programs of a seed, one after the other, until the steps or the time are used up."""

from __future__ import annotations

import contextlib
import shlex
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec

from scripted_explore.draw import draw_program
from scripted_explore.finding import STALLED, Finding, Signature
from scripted_explore.laboratory import Laboratory, UndisturbedFailed
from scripted_explore.program import Program
from scripted_explore.report import RunReport
from scripted_explore.shrink import shrink
from scripted_explore.space import Topology, topologies

SHRINK_TIMEOUT_S = 60.0
_TRIES = 3
"""Failures that a program does not show by itself before one is written down all the same."""


class Task(msgspec.Struct, frozen=True, kw_only=True):
    """The programs of a seed, from number 0 on: what one process does.

    It ends when ``max_steps`` iterations were checked, when ``max_seconds`` are over, after
    ``max_programs``, or, with ``stop_at_first``, at the first finding. ``corpus`` comes first.
    """

    backend: str
    topologies: tuple[str, ...] = ()
    kwargs: dict[str, Any] = {}
    seed: int = 0
    max_steps: int | None = None
    max_seconds: float | None = None
    max_programs: int | None = None
    stop_at_first: bool = False
    shrink_timeout_s: float = SHRINK_TIMEOUT_S
    corpus: tuple[Program, ...] = ()


class Outcome(msgspec.Struct, kw_only=True):
    """What a task has seen and found; ``kept`` are programs that met a state that none before had."""

    report: RunReport
    findings: list[Finding] = []
    again: int = 0
    """Failures with the signature of an earlier finding."""
    programs: int = 0
    seconds: float = 0.0
    starts: int = 0
    kept: list[Program] = []

    @classmethod
    def nothing(cls) -> Outcome:
        """What there is before the first program."""
        return cls(report=RunReport())

    def take(self, other: Outcome) -> None:
        """Merge: a finding that is here already counts as seen again."""
        self.report.take(other.report)
        for finding in other.findings:
            if any(one.signature == finding.signature for one in self.findings):
                self.again += 1
            else:
                self.findings.append(finding)
        self.again += other.again
        self.programs += other.programs
        self.seconds = max(self.seconds, other.seconds)
        self.starts += other.starts
        self.kept += other.kept


Progress = Callable[[Outcome], None]


class Campaign:
    """Runs a task in this process. ``progress`` is told of the outcome so far after each program."""

    def __init__(self, task: Task, *, progress: Progress | None = None) -> None:
        self._task = task
        self._progress = progress
        engine = task.backend.partition(":")[0]
        self._topologies = topologies(engine, task.topologies)
        self._started = time.monotonic()
        self._shrinking_s = 0.0
        self._tries: dict[Signature, int] = {}
        self.outcome = Outcome.nothing()

    def run(self) -> Outcome:
        """Explore until the task says that it is enough."""
        task = self._task
        with Laboratory(task.backend, self._topologies, extra=task.kwargs) as laboratory:
            for program in task.corpus:
                if self._is_enough():
                    break
                self._one(laboratory, program, number=None)
            number = 0
            while not self._is_enough():
                program = draw_program(self._topologies, seed=task.seed, number=number)
                self._one(laboratory, program, number=number)
                number += 1
            self.outcome.starts = laboratory.starts
        self.outcome.seconds = time.monotonic() - self._started
        return self.outcome

    def _is_enough(self) -> bool:
        task, outcome = self._task, self.outcome
        if task.stop_at_first and outcome.findings:
            return True
        if task.max_programs is not None and outcome.programs >= task.max_programs:
            return True
        if task.max_steps is not None and outcome.report.steps >= task.max_steps:
            return True
        spent = time.monotonic() - self._started
        return task.max_seconds is not None and spent >= task.max_seconds

    def _one(self, laboratory: Laboratory, program: Program, *, number: int | None) -> None:
        outcome = self.outcome
        run = laboratory.run(program)
        states = len(outcome.report.states)
        outcome.report.take(run.report)
        outcome.programs += 1
        if run.signature is not None:
            if any(one.signature == run.signature for one in outcome.findings):
                outcome.again += 1
            else:
                self._look_into(laboratory, program, run.signature, str(run.error), number)
        elif len(outcome.report.states) > states:
            outcome.kept.append(program)
        outcome.seconds = time.monotonic() - self._started
        self._tell()

    def _tell(self) -> None:
        if self._progress is not None:
            self._progress(self.outcome)

    def _look_into(
        self,
        laboratory: Laboratory,
        program: Program,
        signature: Signature,
        text: str,
        number: int | None,
    ) -> None:
        topology = laboratory.topologies[program.topology]
        seconds = time.monotonic() - self._started - self._shrinking_s
        begun = time.monotonic()
        again = laboratory.run(program, fresh=True)
        if again.signature is None and self._tries.get(signature, 0) < _TRIES:
            # It took what earlier programs had left behind. It will be met again, or was nothing.
            self._tries[signature] = self._tries.get(signature, 0) + 1
            return
        finding = Finding(
            backend=self._task.backend,
            program=_with(program, self._task.kwargs),
            signature=again.signature or signature,
            text=text if again.error is None else str(again.error),
            outputs=_outputs(laboratory, program),
            found=program,
            found_by=found_by(self._task, number),
            seed=self._task.seed,
            number=number,
            steps=self.outcome.report.steps,
            seconds=seconds,
            reproduced=again.signature is not None,
        )
        self.outcome.findings.append(finding)
        if finding.reproduced and self._task.shrink_timeout_s > 0:
            self._tell()  # an interrupt while it is made small loses nothing
            small = shrink_finding(
                laboratory,
                program,
                topology,
                finding.signature,
                timeout_s=self._task.shrink_timeout_s,
            )
            last = laboratory.run(small, fresh=True)
            finding = msgspec.structs.replace(
                finding,
                program=_with(small, self._task.kwargs),
                text=finding.text if last.error is None else str(last.error),
                outputs=_outputs(laboratory, small),
            )
        self._shrinking_s += time.monotonic() - begun
        self.outcome.findings[-1] = msgspec.structs.replace(
            finding, shrinking_s=time.monotonic() - begun
        )


def _outputs(laboratory: Laboratory, program: Program) -> dict[str, list[int]]:
    """What its prompts put out undisturbed, as far as the engine can do that."""
    with contextlib.suppress(UndisturbedFailed):
        return dict(laboratory.outputs(program))
    return {}


def found_by(task: Task, number: int | None) -> str:
    """The command that runs a program of a task again; without a number it came from the corpus."""
    words = ["scripted", "explore", "--backend", task.backend]
    for name in task.topologies:
        words += ["--topology", name]
    for name, value in task.kwargs.items():
        words += ["--engine-arg", f"{name}={value}"]
    words += ["--seed", str(task.seed)]
    if number is None:
        return f"`{shlex.join(words)}`, a program of its corpus"
    return f"`{shlex.join(words)} --replay {number}`"


def shrink_finding(
    laboratory: Laboratory,
    program: Program,
    topology: Topology,
    signature: Signature,
    *,
    timeout_s: float,
) -> Program:
    """The smallest program that fails as ``program`` does, on an engine that has run nothing before.

    One engine runs all candidates. Where a small one then fails of what others have left behind, and
    an engine is cheap, each candidate has an engine of its own in the time that is left.
    """
    deadline = time.monotonic() + timeout_s
    for fresh in (False,) if topology.fixed else (False, True):

        def fails(candidate: Program, fresh: bool = fresh) -> bool:
            return laboratory.run(candidate, fresh=fresh).signature == signature

        with laboratory.hurried() if signature == STALLED else contextlib.nullcontext():
            small = shrink(
                program, topology, fails=fails, timeout_s=max(deadline - time.monotonic(), 0.0)
            )
        if laboratory.run(small, fresh=True).signature == signature:
            return small
    return program


def run_task(task: Task) -> Outcome:
    """A task from beginning to end: what a worker process is given."""
    return Campaign(task).run()


def split(task: Task, jobs: int) -> list[Task]:
    """One task for each of so many processes, each with a seed of its own."""
    return [
        msgspec.structs.replace(
            task,
            seed=task.seed if jobs == 1 else task.seed * 1_000 + place,
            max_steps=None if task.max_steps is None else -(-task.max_steps // jobs),
            max_programs=None if task.max_programs is None else -(-task.max_programs // jobs),
            corpus=task.corpus[place::jobs],
        )
        for place in range(jobs)
    ]


def _with(program: Program, kwargs: Mapping[str, Any]) -> Program:
    return Program(program.topology, {**program.kwargs, **kwargs}, program.ops)


def merged(outcomes: Sequence[Outcome]) -> Outcome:
    """All outcomes as one, equal findings once."""
    whole = Outcome.nothing()
    for outcome in outcomes:
        whole.take(outcome)
    return whole
