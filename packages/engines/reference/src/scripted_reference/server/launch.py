"""How a session starts this server, and what its log says when that fails."""

from __future__ import annotations

import json
import os
import socket
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from scripted_core.errors import ConfigError, EngineStartError
from scripted_core.sessions.launch import SESSION_FOLDER, ServerLaunch
from scripted_registry import EngineConfig

from scripted_reference.args import parse_engine_kwargs
from scripted_reference.server.process import COMPLAINT

_HOST: Final = "127.0.0.1"
_KWARGS_FILE: Final = "engine-kwargs.json"
_START_TIMEOUT_S: Final = 120.0


def server_launch(config: EngineConfig) -> ServerLaunch:
    """The launch of `config`; a `port` among its arguments is kept, otherwise a free one is taken.

    Raises `ConfigError` for arguments that the engine refuses, `EngineStartError` for a port that is
    taken.
    """
    kwargs = dict(config.kwargs)
    parse_engine_kwargs(kwargs)
    host = str(kwargs.pop("host", None) or _HOST)
    port = _port(host, kwargs.pop("port", None))
    text = _as_json(kwargs)

    def prepare(folder: Path) -> None:
        (folder / _KWARGS_FILE).write_text(text, encoding="utf-8")

    return ServerLaunch(
        # -P: the current folder is the user's, and no place to import modules from.
        argv=(
            *(sys.executable, "-P", "-m", "scripted_reference.server"),
            *("--host", host, "--port", str(port)),
            *("--engine-kwargs-json", f"{SESSION_FOLDER}/{_KWARGS_FILE}"),
        ),
        host=host,
        port=port,
        ready_path="/health",
        start_timeout_s=_START_TIMEOUT_S,
        prepare=prepare,
        explain=explain,
    )


def explain(log: str) -> str | None:
    """The first complaint in a log, up to the end of its paragraph."""
    _, found, rest = log.partition(COMPLAINT)
    if not found:
        return None
    message = rest.split(f"\n{COMPLAINT}")[0].strip()
    return f"the reference engine says: {message}"


def _as_json(kwargs: Mapping[str, object]) -> str:
    try:
        return json.dumps(kwargs, default=os.fspath)
    except TypeError as error:
        raise ConfigError(
            f"an engine argument cannot be written as JSON: {error}",
            hint="use numbers, texts, lists and mappings",
        ) from error


def _port(host: str, given: object) -> int:
    port = 0 if given is None else given
    if isinstance(port, bool) or not isinstance(port, int) or not 0 <= port < 65536:
        raise ConfigError(f"port={given!r} is no port", hint="leave port out for a free one")
    try:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, port))
            return int(probe.getsockname()[1])
    except OSError as error:
        raise EngineStartError(
            f"port {port} on {host} is taken: {error.strerror}",
            hint="leave port out for a free one, or end the server that has it",
        ) from error
