"""From a configuration to the command that starts SGLang for a session."""

from __future__ import annotations

import getpass
import math
import os
import re
import socket
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final

import structlog
from scripted_core.errors import CapabilityMissing, ConfigError, EngineStartError
from scripted_core.free_ports import free_port
from scripted_core.sessions.launch import SESSION_FOLDER, ServerLaunch
from scripted_registry import EngineConfig

from scripted_sglang._compat.as_shipped import ENV_AS_SHIPPED
from scripted_sglang.arguments import source_folder
from scripted_sglang.environment import ENV_BASE_URL
from scripted_sglang.kv_settings import take_settings
from scripted_sglang.launch import (
    default_kwargs,
    held_for_long,
    server_argv,
    server_env,
)
from scripted_sglang.own_canary import own_canary_environment
from scripted_sglang.probes import TESTED_VERSIONS, describe_installation, installed_version
from scripted_sglang.tiny_model import (
    SMALL_MODEL,
    SMALL_SWA_MODEL,
    WINDOW_MODEL,
    WINDOW_TOKENS,
    write_tiny_model,
)

_log = structlog.get_logger("scripted.sglang")
HOST: Final = "127.0.0.1"
"""Where servers listen unless they are told otherwise."""
HIGHEST_PORT: Final = 65_535 - 10_000
"""0.5.15 keeps the port 10,000 above its own for a second interface, and does not start when there can
be none."""

_TINY_MODEL_FOLDER: Final = "tiny-model"
_TINY_CONTEXT_LENGTH: Final = 1024
_TRAINED_MODEL: Final = "tiny"
_PARALLEL_SIZES: Final = ("tp_size", "pp_size", "dp_size")
_LOAD_FILE = re.compile(r"/dev/shm/sglang_loads_\S+\.shm(?=\n|$)")
_PORT_TAKEN = re.compile(r"\[Errno \d+\] error while attempting to bind on address \(.+?\)")
_FAILURE = re.compile(r"^(?:.*\berror: .+|(?:\w+\.)*\w*(?:Error|Exception)\b: .+)$", re.MULTILINE)

# Its front calls itself a moment before its port is open, and goes on when that fails.
_HARMLESS: Final = "/freeze_gc"


def server_launch(config: EngineConfig) -> ServerLaunch:
    """The launch of ``config``: one server, or a prefill/decode pair of them behind a router.

    Raises as :func:`one_server` does, and ``ConfigError`` for one half of a pair.
    """
    mode = config.kwargs.get("disaggregation_mode")
    if mode in (None, "null"):
        return one_server(config)
    if mode == "pair":
        from scripted_sglang.pair_launch import pair_launch

        return pair_launch(config)
    raise ConfigError(
        f"disaggregation_mode={mode!r} is one half of a pair, which cannot be scripted alone",
        hint="use disaggregation_mode='pair', with prefill_kwargs and decode_kwargs",
    )


def one_server(config: EngineConfig) -> ServerLaunch:
    """One server; without a model path, or with the small model's, a tiny one is made.

    The model ``tiny`` is the trained checkpoint of ``scripted-models``, ``tiny-swa`` a tiny one with
    sliding windows. ``env`` are environment variables of the server's processes.

    Raises ``ConfigError`` for an argument that SGLang does not have, ``EngineStartError`` for a
    port that is taken, and for a release that has no place for one of our hooks.
    """
    _look_at_release()
    given = dict(config.kwargs)
    host = str(given.pop("host", None) or HOST)
    port = port_of(host, given.pop("port", None))
    wanted_env = _given_env(given.pop("env", None))
    on_cpu = given.get("device", None if _has_gpu() else "cpu") == "cpu"
    wanted_env |= take_settings(given, on_cpu=on_cpu)
    kwargs = {"model_path": SMALL_MODEL, **default_kwargs(cpu=on_cpu), **given}
    if kwargs["model_path"] == SMALL_SWA_MODEL:
        kwargs["model_path"] = WINDOW_MODEL
    prepare = None
    if kwargs["model_path"] in (SMALL_MODEL, WINDOW_MODEL):
        window_tokens = None
        if kwargs["model_path"] == WINDOW_MODEL:
            _require_windows()
            window_tokens = WINDOW_TOKENS
        context_length = int(str(kwargs.pop("context_length", None) or _TINY_CONTEXT_LENGTH))
        kwargs["model_path"] = f"{SESSION_FOLDER}/{_TINY_MODEL_FOLDER}"

        def prepare(folder: Path) -> None:
            write_tiny_model(
                folder / _TINY_MODEL_FOLDER,
                context_length=context_length,
                window_tokens=window_tokens,
            )

    elif kwargs["model_path"] == _TRAINED_MODEL:
        kwargs["model_path"] = str(_trained_checkpoint())
        kwargs.setdefault("context_length", _TINY_CONTEXT_LENGTH)

    ranks = math.prod(int(str(kwargs.get(name) or 1)) for name in _PARALLEL_SIZES)
    if int(str(kwargs.get("dp_size") or 1)) not in (1, ranks):
        raise ConfigError(
            "dp_size above 1 together with tp_size or pp_size above 1 cannot be scripted yet",
            hint="use one of them at a time",
        )
    if ranks > 1:
        kwargs = {**held_for_long(), **kwargs}
    return ServerLaunch(
        argv=tuple(server_argv(kwargs, host=host, port=port)),
        host=host,
        port=port,
        env=server_env(cpu=on_cpu, ranks=ranks, tp_size=int(str(kwargs.get("tp_size") or 1)))
        | _session_environment(on_cpu=on_cpu, base_url=f"http://{host}:{port}")
        | own_canary_environment(kwargs, on_cpu=on_cpu)
        | wanted_env,
        ready_path="/model_info",
        prepare=prepare,
        explain=explain,
        leftovers=load_files,
        # Its own way out takes more than 5 s once it has served a request.
        stop_grace_s=0.0,
    )


def _require_windows() -> None:
    package = source_folder()
    if package is not None and not (package / "srt" / "models" / "mellum.py").is_file():
        raise CapabilityMissing(
            f"model_path={WINDOW_MODEL!r} needs the capability 'swa': SGLang {installed_version()} has "
            "no model with sliding windows that a CPU can run"
        )


def _given_env(given: object) -> dict[str, str]:
    """The argument ``env``: names and values as texts; ours, which carry the session, stay."""
    if given is None:
        return {}
    if not isinstance(given, Mapping):
        raise ConfigError(
            f"env={given!r} is not a mapping of environment variables",
            hint="for example env={'SGLANG_UNIFIED_RADIX_TREE_CORE_BACKEND': 'rust'}",
        )
    for name, value in given.items():
        if not isinstance(name, str) or not isinstance(value, str):
            raise ConfigError(
                f"env: {name!r}={value!r} is not a text", hint="names and values are texts"
            )
        if name.startswith("SCRIPTED_") and name != ENV_AS_SHIPPED:
            raise ConfigError(
                f"env: {name!r} carries the session and cannot be set", hint="leave it out"
            )
    return dict(given)


def _trained_checkpoint() -> Path:
    """The checkpoint that the reference engine calls by the same name; data of another package."""
    try:
        from scripted_models import checkpoint
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"the model {_TRAINED_MODEL!r} is not installed", hint="install scripted-models"
        ) from error
    return checkpoint(_TRAINED_MODEL)


def _look_at_release() -> None:
    """Warn of a release that was not tested; refuse one that cannot be attached to."""
    if installed_version() in TESTED_VERSIONS:
        return
    installation = describe_installation()
    if installation is None:
        return  # What writes the command says so.
    if installation.missing_required:
        names = ", ".join(probe.name for probe in installation.missing_required)
        raise EngineStartError(
            f"SGLang {installation.version} has no {names}, which scripts need",
            hint=f"use a tested release: {', '.join(TESTED_VERSIONS)}",
        )
    _log.warning(
        "SGLang release not tested",
        installed=installation.version,
        tested=", ".join(TESTED_VERSIONS),
        probes=installation.summary,
    )


def _session_environment(*, on_cpu: bool, base_url: str) -> dict[str, str]:
    # Its socket files go with the session's folder; compiled kernels are worth keeping.
    env = {ENV_BASE_URL: base_url, "TMPDIR": SESSION_FOLDER}
    if not on_cpu and "TORCHINDUCTOR_CACHE_DIR" not in os.environ:
        kept = Path(tempfile.gettempdir()) / f"torchinductor_{getpass.getuser()}"
        env["TORCHINDUCTOR_CACHE_DIR"] = str(kept)
    return env


def load_files(pids: Iterable[int]) -> set[Path]:
    """The shared-memory files in which schedulers among ``pids`` publish their load.

    SGLang deletes them only at an orderly end.
    """
    found: set[Path] = set()
    for pid in pids:
        try:
            maps = Path(f"/proc/{pid}/maps").read_text(errors="replace")
        except OSError:
            continue
        found.update(Path(name) for name in _LOAD_FILE.findall(maps))
    return found


def explain(log: str) -> str | None:
    """Why SGLang ended, from its log: a port that was taken from under it, or its last error message."""
    if (taken := _PORT_TAKEN.search(log)) is not None:
        return f"SGLang says: {taken[0]}; another program took the port while SGLang started: try again"
    found = [line for line in _FAILURE.findall(log) if _HARMLESS not in line]
    return f"SGLang says: {found[-1].strip()}" if found else None


def port_of(host: str, given: object) -> int:
    """The port that is asked for, or a free one; ``EngineStartError`` when it is taken."""
    if given is None:
        return free_port(host, highest=HIGHEST_PORT)
    port = int(str(given))
    try:
        with socket.socket() as probe:
            probe.bind((host, port))
    except OSError as error:
        raise EngineStartError(
            f"port {port} on {host} is taken: {error.strerror}",
            hint="leave port out for a free one, or end the server that has it",
        ) from error
    return port


def _has_gpu() -> bool:
    return Path("/dev/nvidiactl").exists()
