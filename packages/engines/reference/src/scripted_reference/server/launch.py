"""How a session starts this server, and what its log says when that fails."""

from __future__ import annotations

import errno
import sys
from pathlib import Path
from typing import Any, Final

from scripted_core.errors import ConfigError, EngineStartError
from scripted_core.free_ports import free_port
from scripted_core.sessions.launch import SESSION_FOLDER, ServerLaunch, ServerMember, url_of
from scripted_core.views import Side
from scripted_registry import EngineConfig

from scripted_reference.args import DisaggregationMode
from scripted_reference.engine_kwargs import parse_engine_kwargs
from scripted_reference.server.arguments import arguments_as_json
from scripted_reference.server.listening import bound
from scripted_reference.server.process import COMPLAINT, ENV_ROUTER

_HOST: Final = "127.0.0.1"
_KWARGS_FILE: Final = "engine-kwargs.json"
_START_TIMEOUT_S: Final = 120.0


def server_launch(config: EngineConfig) -> ServerLaunch:
    """The launch of `config`; a `port` among its arguments is kept, otherwise a free one is taken.

    Raises `ConfigError` for arguments that the engine refuses and for a host that cannot be served
    on, `EngineStartError` for a port that is taken.
    """
    kwargs = dict(config.kwargs)
    args = parse_engine_kwargs(kwargs)
    host = str(kwargs.pop("host", None) or _HOST)
    port = _port(host, kwargs.pop("port", None))
    if args.disaggregation_mode == DisaggregationMode.PAIR:
        return pair_launch(kwargs, host=host, port=port)
    text = arguments_as_json(kwargs)

    def prepare(folder: Path) -> None:
        (folder / _KWARGS_FILE).write_text(text, encoding="utf-8")

    return ServerLaunch(
        argv=_argv(host, port, _KWARGS_FILE),
        host=host,
        port=port,
        ready_path="/health",
        start_timeout_s=_START_TIMEOUT_S,
        prepare=prepare,
        explain=explain,
    )


def pair_launch(kwargs: dict[str, Any], *, host: str, port: int) -> ServerLaunch:
    """The launch of a prefill server, a decode server and a router in front of them."""
    common = {
        name: value
        for name, value in kwargs.items()
        if name not in {"prefill_kwargs", "decode_kwargs", "disaggregation_bootstrap_port"}
    }
    bootstrap_port = _port(host, kwargs.get("disaggregation_bootstrap_port"))
    texts: dict[str, str] = {}
    members = []
    for side in Side:
        role = side.value
        own = kwargs.get(f"{role}_kwargs") or {}
        texts[f"{role}-{_KWARGS_FILE}"] = arguments_as_json(
            {
                **common,
                **own,
                "disaggregation_mode": role,
                "disaggregation_bootstrap_port": bootstrap_port,
            }
        )
        at = _port(host, None)
        members.append(
            ServerMember(
                role=role,
                argv=_argv(host, at, f"{role}-{_KWARGS_FILE}"),
                host=host,
                port=at,
                env={ENV_ROUTER: url_of(host, port)},
            )
        )
    urls = {member.role: member.base_url for member in members}

    def prepare(folder: Path) -> None:
        for name, text in texts.items():
            (folder / name).write_text(text, encoding="utf-8")

    return ServerLaunch(
        argv=(
            *(sys.executable, "-P", "-m", "scripted_hook.pair.router"),
            *("--host", host, "--port", str(port)),
            *("--prefill", urls["prefill"], "--bootstrap-port", str(bootstrap_port)),
            *("--decode", urls["decode"]),
        ),
        host=host,
        port=port,
        start_timeout_s=_START_TIMEOUT_S,
        prepare=prepare,
        explain=explain,
        members=tuple(members),
    )


def _argv(host: str, port: int, kwargs_file: str) -> tuple[str, ...]:
    # -P: the current folder is the user's, and no place to import modules from.
    return (
        *(sys.executable, "-P", "-m", "scripted_reference.server"),
        *("--host", host, "--port", str(port)),
        *("--engine-kwargs-json", f"{SESSION_FOLDER}/{kwargs_file}"),
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
        with bound(host=host, port=port):
            return port or free_port(host)
    except ConfigError as error:
        cause = error.__cause__
        if not isinstance(cause, OSError) or cause.errno != errno.EADDRINUSE:
            raise
        raise EngineStartError(
            f"port {port} on {host} is taken: {cause.strerror}",
            hint="leave port out for a free one, or end the server that has it",
        ) from cause
