"""`scripted keys DIR`: keys for an engine that is attached to, and what to set where."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Annotated

import typer

DEFAULT_LISTEN = "tcp://0.0.0.0:7801"


def keys(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Where the key files go.")],
    client: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME", help="A client to make a key for (default: client). Repeatable."
        ),
    ] = None,
    listen: Annotated[
        str,
        typer.Option(metavar="ADDRESS", help="Where the engine is to listen, for what is printed."),
    ] = DEFAULT_LISTEN,
    as_json: Annotated[bool, typer.Option("--json", help="Write JSON instead.")] = False,
) -> None:
    """Make the keys with which tests attach to an engine that somebody else starts.

    Writes `engine.key` and a key for each client, readable by you alone, and prints what to set where
    the engine starts and what to type where tests run. An `engine.key` that is there is kept, and the
    clients are added to those that it lets in, also while the engine runs.

    Examples:

    `scripted keys ~/scripted-keys`

    `scripted keys ~/scripted-keys --client laptop --client ci`

    Whoever has a client's key can run code in the engine's process. Exit status: 0, or 2 when nothing
    was written.
    """
    from scripted_core.wire.address import ENV_KEY_FILE, ENV_LISTEN
    from scripted_core.wire.keys import DEFAULT_CLIENT, ENGINE_KEY_FILE, make_keys
    from scripted_core.wire.tcp import parse_tcp

    where = parse_tcp(listen, what="--listen", listening=True)
    names = tuple(client or [DEFAULT_CLIENT])
    folder = folder.expanduser().absolute()
    make_keys(folder, clients=names)
    engine_file = folder / ENGINE_KEY_FILE
    variables = {ENV_LISTEN: str(where), ENV_KEY_FILE: str(engine_file)}
    client_files = {name: str(folder / f"{name}.key") for name in names}
    if as_json:
        typer.echo(json.dumps({"environment": variables, "client_keys": client_files}))
        return
    host = "HOST" if where.is_everywhere else where.host
    address = f"tcp://{host}:{where.port or 'PORT'}"
    lines = ["Where the engine starts (on every node of it), before it starts:", ""]
    lines += [f"  export {name}={shlex.quote(value)}" for name, value in variables.items()]
    lines += [
        "",
        f"Copy {engine_file} there if it is another machine, with mode 0600,",
        "and name it as it is there.",
        "",
        "Where the tests run:",
    ]
    for file in client_files.values():
        quoted = shlex.quote(file)
        lines += [
            "",
            f"  scripted attach {address} --key {quoted}      # look who is there",
            f"  pytest --scripted-attach {address} --scripted-key {quoted}",
        ]
    typer.echo("\n".join(lines))
