"""The command lines: `python -m scripted_registry`, and the same as `scripted ci`."""

from __future__ import annotations

import sys
from typing import Any

import typer
from typer.core import TyperGroup

from scripted_registry.ci.cli.record import record
from scripted_registry.ci.cli.register import list_registered, register
from scripted_registry.ci.cli.run import run
from scripted_registry.errors import ScriptedError

_DEFAULT_COMMAND = "list"


class _DefaultCommandGroup(TyperGroup):
    """A command group in which `list` need not be written."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if not args or (args[0] not in self.commands and args[0] != "--help"):
            args = [_DEFAULT_COMMAND, *args]
        return super().parse_args(ctx, args)


def add_commands(app: typer.Typer) -> None:
    """Add the commands of CI to `app`."""
    app.command("list")(list_registered)
    app.command("register")(register)
    app.command("run")(run)
    app.command("record")(record)


def ci_group() -> typer.Typer:
    """Return the commands as the group `scripted ci`."""
    group = typer.Typer(no_args_is_help=True, rich_markup_mode="markdown", help=_GROUP_HELP)
    add_commands(group)
    return group


_GROUP_HELP = """The stages of CI: what is registered, and running one shard of one.

`register` writes what CI runs, `run` runs it here as a scheduler would, `record` remembers how long the
tests took.

Example: `scripted ci run --stage unit --shard 1/2`
"""

app = typer.Typer(
    cls=_DefaultCommandGroup,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)
add_commands(app)


@app.callback()
def _scripted_registry() -> None:
    """The CI stages of scripted, and the tests that are registered for them.

    Without a command, `list` is meant: `python -m scripted_registry` lists what is installed and what
    is registered under the current folder.

    Example: `python -m scripted_registry tests --json`
    """


def main(arguments: list[str] | None = None) -> None:
    """Run the program and exit; an error of the user's is a message, not a traceback."""
    try:
        app(arguments, prog_name="python -m scripted_registry")
    except ScriptedError as error:
        from scripted_registry.ci.cli._table import print_error

        print_error(error)
        sys.exit(2)
