"""What `scripted explore` does once its arguments are understood."""

from __future__ import annotations

from pathlib import Path

import msgspec
from rich.console import Console
from scripted_core.errors import ConfigError
from scripted_core.sessions.base import make_config

from scripted_explore.campaign import Outcome, Task, merged, split
from scripted_explore.corpus import Corpus, program_of
from scripted_explore.digests import differing
from scripted_explore.draw import draw_program
from scripted_explore.executor_name import ExecutorName
from scripted_explore.executors import Executor, LocalExecutor, RayExecutor
from scripted_explore.keeping import Keeper
from scripted_explore.laboratory import Laboratory
from scripted_explore.live import LiveView
from scripted_explore.sometimes import NEEDS, Sometimes
from scripted_explore.space import topologies


class Command:
    """One call of the command. Each method says whether all is well."""

    def __init__(
        self,
        task: Task,
        *,
        folder: Path,
        jobs: int,
        executor: ExecutorName,
        runner: str | None = None,
    ) -> None:
        if not task.backend:
            raise ConfigError("--backend is empty", hint="`scripted list` shows the engines")
        make_config(task.backend, task.kwargs)  # an engine that is not there, before anything else
        self._engine = task.backend.partition(":")[0]
        self._names = tuple(one.name for one in topologies(self._engine, task.topologies))
        self._task = task
        self._folder = folder
        self._jobs = jobs
        self._executor: Executor = LocalExecutor()
        if executor is ExecutorName.RAY:
            self._executor = RayExecutor(resources=None if runner is None else {runner: 1.0})

    def explore(self, *, demand_all: bool) -> bool:
        """Run the campaign; False with a finding, or a demanded state that was not met."""
        corpus = Corpus(self._folder / "corpus", backend=self._task.backend)
        keeper = Keeper(self._folder, corpus)
        whole = msgspec.structs.replace(self._task, corpus=corpus.load(self._names))
        outcomes: list[Outcome] = []
        with LiveView(backend=self._task.backend, topologies=self._names) as view:

            def progress(place: int, outcome: Outcome) -> None:
                keeper.update(place, outcome)
                view.update(place, outcome)

            try:
                for outcome in self._executor.run(split(whole, self._jobs), progress=progress):
                    outcomes.append(outcome)
            finally:
                keeper.close()
        outcome = merged(outcomes)
        view.summary(outcome)
        missed = self._missed(outcome)
        view.sometimes(outcome, missed)
        for finding in outcome.findings:
            view.finding(finding, keeper.path(finding))
        return not outcome.findings and not (demand_all and missed)

    def replay(self, which: str) -> bool:
        """Run one program, and say what it comes to; False when it fails."""
        console = Console(soft_wrap=True)
        program, backend = None, None
        if which.isdecimal():
            chosen = topologies(self._engine, self._task.topologies)
            program = draw_program(chosen, seed=self._task.seed, number=int(which))
        elif Path(which).is_file():
            program, backend = program_of(Path(which))
        if program is None:
            raise ConfigError(
                f"--replay {which!r} is neither a file nor a number", hint="see --help"
            )
        backend = backend or self._task.backend
        make_config(backend, self._task.kwargs)
        engine = backend.partition(":")[0]
        chosen = topologies(engine, (program.topology,))
        with Laboratory(backend, chosen, extra=self._task.kwargs) as laboratory:
            run = laboratory.run(program, digest=True)
        steps = f"{len(program.ops)} operations, {run.report.steps} iterations"
        if run.error is not None:
            console.print(f"{steps}: {run.signature}", style="red", markup=False)
            console.print(str(run.error), markup=False)
            return False
        console.print(f"{steps}: nothing found; events {run.digest}", markup=False)
        return True

    def replays(self, count: int) -> bool:
        """Run programs twice each; False when one of them has other events the second time."""
        console = Console(soft_wrap=True)
        wrong = differing(
            self._task.backend,
            topologies(self._engine, self._task.topologies),
            seed=self._task.seed,
            count=count,
            kwargs=self._task.kwargs,
        )
        console.print(f"{count - len(wrong):,} of {count:,} programs have the same events again")
        if wrong:
            console.print(f"not those with the numbers {wrong}", style="red", markup=False)
        return not wrong

    def _missed(self, outcome: Outcome) -> list[Sometimes]:
        return [
            one
            for one in Sometimes
            if not outcome.report.sometimes.get(one.value) and self._can_be(one)
        ]

    def _can_be(self, one: Sometimes) -> bool:
        """Whether an engine of these topologies can come into a state."""
        needs = NEEDS.get(one, ())
        has = {"pp": "pp" in self._names, "pd_decode": "pd" in self._names}
        if "priority" in needs:
            return any(
                "enable_priority_scheduling" in topology.axes
                for topology in topologies(self._engine, self._names)
            )
        return all(has.get(need.value, True) for need in needs)
