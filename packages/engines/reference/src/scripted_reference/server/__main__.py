"""`python -m scripted_reference.server`: start the engine as a server, and serve until told to end.

What is imported at the top is little: the scheduler process is started first, and both import at the
same time what they need.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import socket
import sys
import tempfile
from pathlib import Path
from typing import Any

from scripted_registry.errors import ConfigError, ScriptedError

from scripted_reference.args import ServerArgs, parse_engine_kwargs
from scripted_reference.server.process import complain, print_forgivingly

_SESSION_FOLDER = "SCRIPTED_WIRE"
_STOP_GRACE_S = 0.5


def main() -> None:
    """Exit status 0 when it was told to end, 1 with a message when it could not go on, 2 for usage."""
    print_forgivingly()
    options = _options()
    try:
        kwargs = _engine_kwargs(options.engine_kwargs_json)
        args = parse_engine_kwargs(kwargs)
        with _bound(options.host, options.port) as listener:
            ended_in_order = _run(args, kwargs, listener)
    except ScriptedError as error:
        complain(str(error))
        sys.exit(1)
    sys.exit(0 if ended_in_order else 1)


def _run(args: ServerArgs, kwargs: dict[str, Any], listener: socket.socket) -> bool:
    from scripted_reference.server.child import SchedulerChild

    host, port = listener.getsockname()[:2]
    base_url = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
    # The session's folder, or one that only this user can enter.
    session = os.environ.get(_SESSION_FOLDER)
    folder = Path(session or tempfile.mkdtemp(prefix="scripted-reference-"))
    try:
        child = SchedulerChild(engine_kwargs=kwargs, folder=folder, base_url=base_url)
        try:
            import asyncio

            from scripted_reference.server.front import Front

            front = Front(
                args=args,
                listener=listener,
                base_url=base_url,
                folder=folder,
                is_private_folder=session is None,
                child=child,
            )
            return asyncio.run(front.serve())
        except ScriptedError as error:
            complain(
                str(error)
            )  # before the scheduler is ended, which must not look like the cause
            return False
        finally:
            child.stop(grace_s=_STOP_GRACE_S)
    finally:
        if session is None:
            shutil.rmtree(folder, ignore_errors=True)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m scripted_reference.server",
        description="The reference engine as a server, with SGLang's HTTP API.",
        allow_abbrev=False,
    )
    parser.add_argument("--host", default="127.0.0.1", help="default: %(default)s")
    parser.add_argument("--port", type=int, default=30000, help="default: %(default)s; 0: any")
    parser.add_argument(
        "--engine-kwargs-json",
        metavar="FILE",
        help="a JSON object of engine arguments (SGLang's names); - reads it from standard input",
    )
    return parser.parse_args()


def _engine_kwargs(source: str | None) -> dict[str, Any]:
    if source is None:
        return {}
    try:
        text = sys.stdin.read() if source == "-" else Path(source).read_text(encoding="utf-8")
        kwargs = json.loads(text)
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"--engine-kwargs-json {source}: {error}", hint='give a JSON object: {"page_size": 16}'
        ) from error
    if not isinstance(kwargs, dict):
        raise ConfigError(
            f"--engine-kwargs-json {source} holds a {type(kwargs).__name__}, not an object",
            hint='give a JSON object: {"page_size": 16}',
        )
    return kwargs


def _bound(host: str, port: int) -> socket.socket:
    """A socket that has the port, and does not listen yet: nothing is answered before all is ready."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, protocol)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
    except (OSError, OverflowError) as error:
        raise ConfigError(
            f"cannot serve on {host} port {port}: {error}",
            hint="choose another port, or end the server that has it",
        ) from error
    return listener


if __name__ == "__main__":
    main()
