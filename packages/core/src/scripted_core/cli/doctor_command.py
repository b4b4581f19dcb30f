"""`scripted doctor`: what is here, what is missing, and what to type."""

from __future__ import annotations

from typing import Annotated

import typer


def doctor(
    clean: Annotated[
        bool, typer.Option("--clean", help="Delete what dead sessions left behind.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Write JSON instead of lines.")] = False,
) -> None:
    """Say what is installed, what is missing and what to type for it.

    Examples:

    `scripted doctor`

    `scripted doctor --clean`

    Exit status: 0 when scripts can run on at least one engine, 1 otherwise.
    """
    from scripted_core.cli.doctor.report import as_text, to_json
    from scripted_core.cli.doctor.survey import survey

    found = survey(clean=clean)
    if as_json:
        typer.echo(to_json(found))
    else:
        as_text(found)
    if not found.can_run:
        raise typer.Exit(1)
