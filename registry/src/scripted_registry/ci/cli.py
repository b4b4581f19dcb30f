"""The command line: `python -m scripted_registry [register] [PATHS...]`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from scripted_registry.ci._table import print_error, print_listing
from scripted_registry.ci.listing import build_listing
from scripted_registry.ci.scan import scan_paths
from scripted_registry.errors import ScriptedError
from scripted_registry.manager import get_plugin_manager

_DEFAULT_COMMAND = "register"


class _DefaultCommandGroup(TyperGroup):
    """A command group in which `register` need not be written."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if not args or (args[0] not in self.commands and args[0] != "--help"):
            args = [_DEFAULT_COMMAND, *args]
        return super().parse_args(ctx, args)


app = typer.Typer(
    cls=_DefaultCommandGroup,
    add_completion=False,
    rich_markup_mode="markdown",
)


@app.callback()
def _scripted_registry() -> None:
    """The CI stages of scripted, and the tests that are registered for them.

    Without a command, `register` is meant: `python -m scripted_registry` lists what is installed
    and what is registered under the current folder.

    Example: `python -m scripted_registry tests --json`
    """


@app.command()
def register(
    paths: Annotated[
        list[Path] | None,
        typer.Argument(help="Test files and folders to read; the current folder by default."),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Write the listing as JSON instead of a table.")
    ] = False,
) -> None:
    """List the CI stages that installed distributions register, with the tests in each.

    Stages come from every installed distribution. Tests are found by reading their
    `register_cpu_ci(...)` and `register_cuda_ci(...)` calls, without importing them. Hidden
    folders, virtual environments and build outputs are not read.

    Example: `python -m scripted_registry register packages/core/tests`

    Exit status: 0; 2 when a plugin or a registration is wrong, with the reason on stderr.
    """
    manager = get_plugin_manager()
    stages = manager.ci_stages()
    listing = build_listing(
        runners=manager.ci_runners(),
        stages=stages,
        registrations=scan_paths(paths or [Path()]),
    )
    if as_json:
        typer.echo(json.dumps(listing.as_dict(), indent=2))
    else:
        print_listing(listing)
    listing.check()


def main(arguments: list[str] | None = None) -> None:
    """Run the program and exit; an error of the user's is a message, not a traceback."""
    try:
        app(arguments, prog_name="python -m scripted_registry")
    except ScriptedError as error:
        print_error(error)
        sys.exit(2)
