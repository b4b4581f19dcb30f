"""The front process: starts the scheduler process, and serves until told to end.

What is imported at the top is little: the scheduler process is started first, and both import at the
same time what they need.
"""

from __future__ import annotations

import argparse
import os
import shutil
import socket
import sys
import tempfile
from pathlib import Path
from typing import Any, Final

from scripted_core.wire.address import ENV_WIRE, SessionAddress, member_from_env, open_address
from scripted_registry.errors import ConfigError, ScriptedError

from scripted_reference.args import DisaggregationMode, ServerArgs
from scripted_reference.argument_checks import wrong_argument
from scripted_reference.engine_kwargs import parse_engine_kwargs
from scripted_reference.server.arguments import asks_for_device_timer, read_arguments
from scripted_reference.server.listening import bound
from scripted_reference.server.process import (
    StopFlag,
    complain,
    print_forgivingly,
    stop_signals_blocked,
)

_STOP_GRACE_S = 0.5
_SHORT_PATHS: Final = ("/tmp", "/dev/shm")
_LONGEST_FOLDER_BYTES: Final = 90
"""The kernel takes 107 bytes as the path of a socket; the names of the sockets come on top."""


def main() -> None:
    """Exit status 0 when it was told to end, 1 with a message when it could not go on, 2 for usage."""
    print_forgivingly()
    options = _options()
    try:
        kwargs = read_arguments(options.engine_kwargs_json)
        if asks_for_device_timer(os.environ):
            kwargs.setdefault("enable_metrics_device_timer", True)
        args = parse_engine_kwargs(kwargs)
        if args.disaggregation_mode == DisaggregationMode.PAIR:
            raise wrong_argument(
                "disaggregation_mode",
                args.disaggregation_mode,
                "is two servers and a router, and this is one",
                "start a server with 'prefill', one with 'decode' and scripted_hook.pair.router, or "
                "run scripted serve, which starts all three",
            )
        # Before anything is started: a setting that cannot be used is refused here.
        is_own = not os.environ.get(ENV_WIRE)
        session = open_address(os.environ, engine="reference")
        try:
            with bound(host=options.host, port=options.port) as listener:
                ended_in_order = _run(args, kwargs, listener, session=session)
        finally:
            if is_own and session is not None:
                session.remove()
    except ScriptedError as error:
        complain(str(error))
        sys.exit(1)
    sys.exit(0 if ended_in_order else 1)


def _run(
    args: ServerArgs,
    kwargs: dict[str, Any],
    listener: socket.socket,
    *,
    session: SessionAddress | None,
) -> bool:
    from scripted_reference.server.child import SchedulerChild

    host, port = listener.getsockname()[:2]
    base_url = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
    stop = StopFlag()
    stop.install()  # from here on there is something to put away before the end
    if session is not None:
        session.announce("main")
    folder = _folder_in(session) if session is not None else _private_folder()
    try:
        # Ctrl-C in a terminal goes to both: the scheduler takes it when it can do so in order.
        with stop_signals_blocked():
            children = [
                SchedulerChild(engine_kwargs=kwargs, folder=folder, base_url=base_url, stage=stage)
                for stage in range(args.pp_size)
            ]
        try:
            import asyncio

            from scripted_reference.server.front import Front

            front = Front(
                args=args,
                listener=listener,
                base_url=base_url,
                folder=folder,
                is_private_folder=session is None,
                children=children,
                stop=stop,
            )
            return asyncio.run(front.serve())
        except ScriptedError as error:
            complain(
                str(error)
            )  # before the scheduler is ended, which must not look like the cause
            return False
        finally:
            stop.install()  # the event loop has put back what is Python's default
            for child in children:
                child.stop(grace_s=_STOP_GRACE_S)
    finally:
        if session is None:
            shutil.rmtree(folder, ignore_errors=True)


def _folder_in(session: SessionAddress) -> Path:
    """Where this front meets its scheduler: each server of several has a folder of its own."""
    folder = Path(session.directory)
    member = member_from_env(os.environ)
    if member is None:
        return folder
    own = folder / member[0]
    own.mkdir(mode=0o700)
    return own


def _private_folder() -> Path:
    """A fresh folder that only this user can enter, on a path short enough for a socket."""
    for parent in (None, *_SHORT_PATHS):
        try:
            folder = tempfile.mkdtemp(prefix="scripted-reference-", dir=parent)
        except OSError:
            continue
        if len(os.fsencode(folder)) <= _LONGEST_FOLDER_BYTES:
            return Path(folder)
        os.rmdir(folder)
    raise ConfigError(
        "no folder for temporary files can be written to and has a path short enough for a socket",
        hint="set TMPDIR to a short path such as /tmp",
    )


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
