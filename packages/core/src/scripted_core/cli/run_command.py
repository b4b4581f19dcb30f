"""`scripted run FILE[:NAME]`: scripts in an engine, and what happened, iteration by iteration."""

from __future__ import annotations

from typing import Annotated

import typer

from scripted_core.cli.engine_args import parse_engine_args
from scripted_core.cli.execute import Ran, RunOutcome, execute
from scripted_core.cli.find import find_scripts


def run(
    target: Annotated[
        str,
        typer.Argument(metavar="FILE[:NAME]", help="A Python file, or one script in it."),
    ],
    backend: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Engine to run on; `scripted list` shows them."),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of request ids and of the engine.")] = 0,
    engine_arg: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=VALUE",
            help="An argument of the engine (SGLang's names); wins over the file's. Repeatable.",
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Write JSON instead of tables.")] = False,
) -> None:
    """Run the scripts of a file and print what happened, iteration by iteration.

    A script is a generator function `script_…(t)` or `test_…(t)`. Its engine's arguments come from
    `ENGINE_KWARGS` of the module and from `pytest.mark.scripted`, as under pytest. Scripts that take
    fixtures or parameters need pytest.

    Example: `scripted run examples/retract_and_resume.py --backend reference`

    Exit status: 0 when every script succeeded or was skipped for a missing capability, 1 when one
    failed, 2 when nothing could be run.
    """
    overrides = parse_engine_args(engine_arg or [])
    found = find_scripts(target)
    results: list[Ran] = []
    if as_json:
        results.extend(execute(found, backend=backend, seed=seed, overrides=overrides))
        from scripted_core.cli.as_json import results_as_json

        typer.echo(results_as_json(results, found))
    else:
        from scripted_core.cli.trace_table import TracePrinter

        printer = TracePrinter()
        for name, reason in found.left_out.items():
            printer.left_out(name, reason, found.path)
        for result in execute(found, backend=backend, seed=seed, overrides=overrides):
            results.append(result)
            printer.script(result)
    if any(result.outcome is RunOutcome.FAILED for result in results):
        raise typer.Exit(1)
