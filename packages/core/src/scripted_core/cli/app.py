"""Puts the program together: built-in commands, then those of plugins, then the arguments."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from enum import IntEnum
from typing import NoReturn

import typer
from scripted_registry import get_plugin_manager

from scripted_core.cli.list_command import list_installed
from scripted_core.cli.run_command import run
from scripted_core.errors import ScriptedError

PROGRAM = "scripted"


class ExitCode(IntEnum):
    """What the program's exit status means."""

    OK = 0
    FAILED = 1
    """A script ran and did not succeed."""
    USAGE = 2
    """Nothing ran: a mistake in what was asked for, or in what is installed."""
    INTERRUPTED = 130


def build_app() -> typer.Typer:
    """The typer application with the commands of this package and of every plugin."""
    app = typer.Typer(
        name=PROGRAM,
        add_completion=False,
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        rich_markup_mode="markdown",
    )
    app.callback()(_about)
    app.command("run")(run)
    app.command("list")(list_installed)
    get_plugin_manager().hook.scripted_register_commands(app=app)
    return app


def _about() -> None:
    """Scripts that drive an LLM serving engine's scheduler, one iteration per `yield`."""


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the program and exit. A mistake of the user's is a message and a hint, no traceback."""
    try:
        build_app()(None if arguments is None else list(arguments), prog_name=PROGRAM)
    except ScriptedError as error:
        print_error(error)
        sys.exit(ExitCode.USAGE)
    except KeyboardInterrupt:
        typer.secho("interrupted", fg="yellow", err=True)
        sys.exit(ExitCode.INTERRUPTED)
    sys.exit(ExitCode.OK)


def print_error(error: ScriptedError) -> None:
    """Write the message in red and the hint below it to stderr (without colours when piped)."""
    typer.secho(f"error: {error.message}", fg="red", err=True)
    if error.hint is not None:
        typer.secho(f"hint: {error.hint}", fg="yellow", err=True)
