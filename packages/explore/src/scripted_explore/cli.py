"""`scripted explore`: search, show how it goes, and write down what fails."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from scripted_explore.executor_name import ExecutorName


def explore_command(
    backend: Annotated[
        str,
        typer.Option(metavar="NAME[:MODE]", help="Engine to explore; `scripted list` shows them."),
    ] = "reference",
    topology: Annotated[
        list[str] | None,
        typer.Option(help="Kind of engine: single, pp, pd, … Repeatable; default: the fast ones."),
    ] = None,
    steps: Annotated[
        int | None, typer.Option(min=1, help="End after so many checked iterations.")
    ] = None,
    minutes: Annotated[
        float | None, typer.Option(min=0.001, help="End after so many minutes; 1 by default.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the programs.")] = 0,
    jobs: Annotated[int, typer.Option(min=1, max=256, help="Processes side by side.")] = 1,
    executor: Annotated[
        ExecutorName, typer.Option(help="local: processes here. ray: a Ray cluster.")
    ] = ExecutorName.LOCAL,
    runner: Annotated[
        str | None,
        typer.Option(metavar="RESOURCE", help="With ray: the resource that a task takes 1 of."),
    ] = None,
    engine_arg: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=VALUE", help="An argument for every engine. Repeatable."),
    ] = None,
    folder: Annotated[
        Path, typer.Option(metavar="DIR", help="Where findings and the corpus are kept.")
    ] = Path(".scripted-explore"),
    stop_at_first: Annotated[
        bool, typer.Option("--stop-at-first", help="End with the first finding.")
    ] = False,
    shrink_seconds: Annotated[
        float, typer.Option(min=0, help="Time to make a finding small; 0 leaves it as it is.")
    ] = 60.0,
    demand_all: Annotated[
        bool,
        typer.Option(
            "--demand-all", help="Fail when a state that the engine can be in was not met."
        ),
    ] = False,
    replay: Annotated[
        str | None,
        typer.Option(
            metavar="FILE|NUMBER",
            help="Run one program only: a .json file, or the number of one of this seed.",
        ),
    ] = None,
    replays: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Run so many programs of this seed twice, and compare the digests of their events.",
        ),
    ] = None,
) -> None:
    """Search orders of operations for one that an engine does not stand.

    Every iteration is checked; a program that fails is shrunk and written as a pytest file.

    `scripted explore --minutes 5 --jobs 2`

    `scripted explore --backend sglang --topology pp --minutes 30`

    `scripted explore --replay 1234 --seed 7`

    `scripted explore --replays 1000`

    Exit status: 0 when nothing was found, 1 with a finding (or, with --demand-all, a state not met),
    2 when nothing could be run.
    """
    from scripted_core.engine_args import parse_engine_args
    from scripted_core.errors import ConfigError

    from scripted_explore.campaign import Task
    from scripted_explore.command import Command

    if steps is not None and minutes is not None:
        raise ConfigError("--steps and --minutes exclude each other", hint="give one of them")
    if replay is not None and replays is not None:
        raise ConfigError("--replay and --replays exclude each other", hint="give one of them")
    if runner is not None and executor is not ExecutorName.RAY:
        raise ConfigError("--runner is for --executor ray", hint="leave it out")
    task = Task(
        backend=backend,
        topologies=tuple(topology or ()),
        kwargs=parse_engine_args(engine_arg or []),
        seed=seed,
        max_steps=steps,
        max_seconds=None if steps is not None else 60 * (minutes or 1.0),
        stop_at_first=stop_at_first,
        shrink_timeout_s=shrink_seconds,
    )
    command = Command(task, folder=folder, jobs=jobs, executor=executor, runner=runner)
    if replay is not None:
        ok = command.replay(replay)
    elif replays is not None:
        ok = command.replays(replays)
    else:
        ok = command.explore(demand_all=demand_all)
    if not ok:
        raise typer.Exit(1)
