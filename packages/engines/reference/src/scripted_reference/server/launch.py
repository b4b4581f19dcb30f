"""How a session starts this server, and what its log says when that fails."""

from __future__ import annotations

import errno
import sys
from pathlib import Path
from typing import Final

from scripted_core.errors import ConfigError, EngineStartError
from scripted_core.sessions.launch import SESSION_FOLDER, ServerLaunch
from scripted_registry import EngineConfig

from scripted_reference.engine_kwargs import parse_engine_kwargs
from scripted_reference.server.arguments import arguments_as_json
from scripted_reference.server.listening import bound
from scripted_reference.server.process import COMPLAINT

_HOST: Final = "127.0.0.1"
_KWARGS_FILE: Final = "engine-kwargs.json"
_START_TIMEOUT_S: Final = 120.0


def server_launch(config: EngineConfig) -> ServerLaunch:
    """The launch of `config`; a `port` among its arguments is kept, otherwise a free one is taken.

    Raises `ConfigError` for arguments that the engine refuses and for a host that cannot be served
    on, `EngineStartError` for a port that is taken.
    """
    kwargs = dict(config.kwargs)
    parse_engine_kwargs(kwargs)
    host = str(kwargs.pop("host", None) or _HOST)
    port = _port(host, kwargs.pop("port", None))
    text = arguments_as_json(kwargs)

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


def _port(host: str, given: object) -> int:
    port = 0 if given is None else given
    if isinstance(port, bool) or not isinstance(port, int) or not 0 <= port < 65536:
        raise ConfigError(f"port={given!r} is no port", hint="leave port out for a free one")
    try:
        with bound(host=host, port=port) as probe:
            return int(probe.getsockname()[1])
    except ConfigError as error:
        cause = error.__cause__
        if not isinstance(cause, OSError) or cause.errno != errno.EADDRINUSE:
            raise
        raise EngineStartError(
            f"port {port} on {host} is taken: {cause.strerror}",
            hint="leave port out for a free one, or end the server that has it",
        ) from cause
