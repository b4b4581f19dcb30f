"""`scripted run FILE[:NAME]`: scripts in an engine, and what happened, iteration by iteration."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from scripted_core.cli.attach_command import KEY_HELP
from scripted_core.cli.view_choice import View


def run(
    target: Annotated[
        str,
        typer.Argument(metavar="FILE[:NAME]", help="A Python file, or one script in it."),
    ],
    backend: Annotated[
        str | None,
        typer.Option(metavar="NAME[:MODE]", help="Engine to run on; `scripted list` shows them."),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of request ids and of the engine.")] = 0,
    engine_arg: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=VALUE",
            help="An argument of the engine (SGLang's names); wins over the file's. Repeatable.",
        ),
    ] = None,
    attach: Annotated[
        str | None,
        typer.Option(
            metavar="ADDRESS",
            help="Run on an engine that somebody else has started and that listens at tcp://HOST:PORT.",
        ),
    ] = None,
    key: Annotated[Path | None, typer.Option(metavar="FILE", help=KEY_HELP)] = None,
    view: Annotated[
        View,
        typer.Option(
            help="live: requests as rows, drawn while the script runs. table: an iteration a row. "
            "none: the verdict only. auto: live on a terminal, else a table."
        ),
    ] = View.AUTO,
    slow: Annotated[
        float,
        typer.Option(
            metavar="SECONDS",
            min=0.0,
            max=60.0,
            help="Replay the live view after the run, with so many seconds for each iteration.",
        ),
    ] = 0.0,
    as_json: Annotated[bool, typer.Option("--json", help="Write JSON instead of a view.")] = False,
) -> None:
    """Run the scripts of a file and show what happens, iteration by iteration.

    A script is a generator function `script_…(t)` or `test_…(t)`. Its engine's arguments come from
    `ENGINE_KWARGS` of the module and from `pytest.mark.scripted`, as under pytest. Scripts that take
    fixtures or parameters need pytest.

    Examples:

    `scripted run examples/retract_and_resume.py`

    `scripted run test_mine.py:test_one --backend sglang --engine-arg page_size=16`

    `scripted run test_mine.py --attach tcp://gpu7:7801 --key client.key`

    `scripted run test_mine.py --slow 0.2`

    `scripted run test_mine.py --json > run.json`

    Exit status: 0 when every script succeeded or was skipped for a missing capability, 1 when one
    failed, 2 when nothing could be run, 130 after Ctrl-C, 141 when nobody reads the output any more.
    """
    # What a run needs is imported here: `list`, `doctor` and `--help` go without it.
    from scripted_core.cli.execute import execute
    from scripted_core.cli.find import find_scripts
    from scripted_core.cli.results import RunOutcome
    from scripted_core.cli.run_views import NoView, make_view
    from scripted_core.engine_args import parse_engine_args
    from scripted_core.errors import ConfigError
    from scripted_core.sessions.attached import AttachTo

    overrides = parse_engine_args(engine_arg or [])
    if attach is not None and (backend is not None or overrides):
        raise ConfigError(
            "--attach is for an engine that runs already: --backend and --engine-arg have no place "
            "beside it",
            hint="leave them out, or leave --attach out",
        )
    to = None if attach is None else AttachTo(address=attach, key_file=key)
    found = find_scripts(target)
    shown = NoView() if as_json else make_view(view, slow_s=slow)
    results = execute(
        found, backend=backend, seed=seed, overrides=overrides, view=shown, attach_to=to
    )
    if as_json:
        from scripted_core.cli.as_json import results_as_json

        typer.echo(results_as_json(results, found))
    if any(result.outcome is RunOutcome.FAILED for result in results):
        raise typer.Exit(1)
