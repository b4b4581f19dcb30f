"""`scripted serve`: an engine as a server in the foreground, without a script."""

from __future__ import annotations

import errno
import json
import os
import socket
from typing import TYPE_CHECKING, Annotated

import typer

from scripted_core.errors import ConfigError

if TYPE_CHECKING:
    from scripted_core.sessions.http_server import ScriptedHttpServer

DEFAULT_PORT = 30000


def serve(
    backend: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Engine to start; `scripted list` shows them."),
    ] = None,
    engine_arg: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=VALUE",
            help="An argument of the engine (SGLang's names). Repeatable.",
        ),
    ] = None,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="Port to listen on; 0 takes a free one.")
    ] = DEFAULT_PORT,
    as_json: Annotated[
        bool, typer.Option("--json", help="Write one line of JSON once it is ready.")
    ] = False,
) -> None:
    """Start an engine as a server and keep it running until Ctrl-C or SIGTERM.

    It is the server that scripts get, with nothing running in it.

    Examples:

    `scripted serve`

    `scripted serve --backend sglang --port 0 --engine-arg page_size=16`

    Exit status: 0 when it was told to stop, 1 when it ended by itself, 2 when it could not be started.
    """
    from scripted_registry import EngineMode

    from scripted_core.engine_args import parse_engine_args
    from scripted_core.free_ports import free_port
    from scripted_core.sessions.base import make_config

    kwargs = parse_engine_args(engine_arg or [])
    for name, option in (("host", "--host"), ("port", "--port")):
        if name in kwargs:
            raise ConfigError(f"--engine-arg {name} is not taken here", hint=f"use {option}")
    _check_port(host, port, _family(host))
    kwargs |= {"host": host, "port": port or free_port(host)}
    config = make_config(backend, kwargs, mode=EngineMode.SERVER)
    from scripted_core.sessions.http_server import ScriptedHttpServer

    if not as_json:
        typer.secho(f"starting {config.engine} ...", err=True)
    try:
        server = ScriptedHttpServer.from_config(config)
    except KeyboardInterrupt:
        typer.secho("stopped before it was ready", err=True)
        raise typer.Exit(0) from None
    try:
        typer.echo(_ready_json(server) if as_json else _ready_text(server))
        _serve_until_it_dies(server)
    except KeyboardInterrupt:  # the way to stop it, as SIGTERM is
        pass
    finally:
        server.shutdown()
    if not as_json:
        typer.secho("stopped", err=True)


def _serve_until_it_dies(server: ScriptedHttpServer) -> None:
    from scripted_core.errors import EngineDied

    try:
        server.watch_over()
    except EngineDied as died:
        typer.secho(f"error: {died.message}", fg="red", err=True)
        raise typer.Exit(1) from None


def _ready_text(server: ScriptedHttpServer) -> str:
    body = '{"input_ids": [1, 2, 3], "sampling_params": {"max_new_tokens": 8}}'
    processes = ", ".join(f"{name} {pid}" for pid, name in server.pids.items())
    return "\n".join(
        (
            f"{server.config.engine} takes requests at {server.base_url}",
            "",
            f"  curl {server.base_url}/generate -H 'Content-Type: application/json' -d '{body}'",
            "",
            f"processes: {processes}",
            f"log: {server.log_path}",
            f"stop: Ctrl-C, or kill {os.getpid()}",
        )
    )


def _ready_json(server: ScriptedHttpServer) -> str:
    return json.dumps(
        {
            "engine": server.config.engine,
            "url": server.base_url,
            "pid": os.getpid(),
            "engine_pids": {name: pid for pid, name in server.pids.items()},
            "log": str(server.log_path),
        }
    )


def _family(host: str) -> socket.AddressFamily:
    try:
        return socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)[0][0]
    except (OSError, UnicodeError) as error:
        raise ConfigError(
            f"--host {host!r} is no address of this machine: {error}",
            hint="127.0.0.1 for this machine alone, 0.0.0.0 for every network that it is in",
        ) from None


def _check_port(host: str, port: int, family: socket.AddressFamily) -> None:
    """Raise ``ConfigError`` when ``port`` cannot be had, before an engine takes its time over it."""
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        # As servers do it: a port whose last connections are dying away is free.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            taken = error.errno == errno.EADDRINUSE
            raise ConfigError(
                f"port {port} on {host} is in use by another program"
                if taken
                else f"{host}:{port} cannot be listened on: {error.strerror}",
                hint="--port 0 takes a free one"
                if taken
                else "see --host and --port; ports below 1024 need privileges",
            ) from None
