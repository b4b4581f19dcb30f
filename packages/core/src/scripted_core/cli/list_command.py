"""`scripted list`: what is installed."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer
from scripted_registry import PluginManager, get_plugin_manager


def list_installed(
    as_json: Annotated[bool, typer.Option("--json", help="Write JSON instead of tables.")] = False,
) -> None:
    """List installed engines, exhausters, kits and CI stages, and who brings them.

    Example: `scripted list --json`
    """
    installed = installed_things(get_plugin_manager())
    if as_json:
        typer.echo(json.dumps(installed, indent=2))
        return
    from scripted_core.cli.list_tables import print_installed

    print_installed(installed)


def installed_things(plugins: PluginManager) -> dict[str, list[dict[str, Any]]]:
    """Everything that plugins register, as plain data by kind.

    ``missing`` of an engine says what is in the way of using it here; ``None`` means nothing.
    """
    return {
        "engines": [
            {
                "name": engine.name,
                "modes": [mode.value for mode in engine.modes],
                "missing": engine.check() if engine.check is not None else None,
                "summary": engine.summary,
                "distribution": engine.distribution,
            }
            for engine in plugins.engines().values()
        ],
        "exhausters": [
            {
                "name": exhauster.name,
                "capability": exhauster.capability,
                "summary": exhauster.summary,
                "distribution": exhauster.distribution,
            }
            for exhauster in plugins.exhausters().values()
        ],
        "kits": [
            {"name": kit.name, "summary": kit.summary, "distribution": kit.distribution}
            for kit in plugins.kits().values()
        ],
        "stages": [
            {
                "name": stage.name,
                "runner": stage.runner,
                "engine": stage.engine,
                "summary": stage.summary,
                "distribution": stage.distribution,
            }
            for stage in plugins.ci_stages().values()
        ],
    }
