"""`scripted attach ADDRESS`: whether an engine can be attached to, and what it is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from scripted_core.sessions.http_server import ScriptedHttpServer

KEY_HELP = "The client's key file (default: $SCRIPTED_CLIENT_KEY_FILE)."


def attach(
    address: Annotated[
        str, typer.Argument(metavar="ADDRESS", help="tcp://HOST:PORT that the engine listens on.")
    ],
    key: Annotated[Path | None, typer.Option(metavar="FILE", help=KEY_HELP)] = None,
    wait: Annotated[
        float,
        typer.Option(
            metavar="SECONDS",
            min=0.0,
            help="Wait so long for an engine that does not listen yet, or that is attached to.",
        ),
    ] = 0.0,
    as_json: Annotated[bool, typer.Option("--json", help="Write JSON instead.")] = False,
) -> None:
    """Attach to an engine that somebody else has started, say what it is, and detach.

    Nothing runs in it and nothing of it is ended. `scripted keys DIR` makes keys, and says what to set
    where the engine starts.

    Examples:

    `scripted attach tcp://gpu7:7801 --key ~/scripted-keys/client.key`

    `scripted attach tcp://gpu7:7801 --wait 600 && pytest --scripted-attach tcp://gpu7:7801`

    Exit status: 0 when it could be attached to, 2 when not.
    """
    from scripted_core.sessions.http_server import ScriptedHttpServer

    with ScriptedHttpServer.attach(address, key_file=key, wait_s=wait) as server:
        typer.echo(_as_json(server) if as_json else _as_text(server))


def _facts(server: ScriptedHttpServer) -> dict[str, object]:
    ready = server.ready
    assert ready is not None, "attached"
    return {
        "engine": ready.engine,
        "engine_version": ready.engine_version,
        "url": server.base_url,
        "engine_pids": ready.pids,
        "capabilities": sorted(ready.capabilities),
        "arguments": ready.arguments,
    }


def _as_json(server: ScriptedHttpServer) -> str:
    return json.dumps(_facts(server))


def _as_text(server: ScriptedHttpServer) -> str:
    facts = _facts(server)
    processes = ", ".join(f"{name} {pid}" for pid, name in server.pids.items())
    return "\n".join(
        (
            f"{facts['engine']} {facts['engine_version']} takes scripts",
            f"requests: {facts['url']}",
            f"processes: {processes}",
            f"capabilities: {', '.join(sorted(server.capabilities))}",
        )
    )
