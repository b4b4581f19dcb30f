"""The registration of the command `scripted kit`."""

from __future__ import annotations

from scripted_registry import hookimpl
from scripted_registry.types import CommandApp

SCRIPTED_API = 1


@hookimpl
def scripted_register_commands(app: CommandApp) -> None:
    """`scripted kit list` and `scripted kit run`."""
    from scripted_kit_client.cli import kit_app

    app.add_typer(kit_app, name="kit")
