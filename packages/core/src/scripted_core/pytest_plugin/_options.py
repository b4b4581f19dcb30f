"""Command-line options, their ini twins, and markers."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from scripted_core.sessions.attached import AttachTo


def add_options(parser: pytest.Parser) -> None:
    """Everything that ``pytest --help`` shows under "scripted"."""
    group = parser.getgroup("scripted", "scripts that drive an LLM engine's scheduler")
    group.addoption(
        "--scripted-backend",
        action="append",
        default=[],
        metavar="NAME",
        help="engine to run scripted tests on, also with its mode (reference:server); repeat it to run "
        "every test on each (default: reference, when it is installed)",
    )
    group.addoption(
        "--scripted-engine-arg",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="a server argument of the engine (SGLang's names); wins over marks. Repeatable",
    )
    group.addoption(
        "--scripted-attach",
        default=None,
        metavar="ADDRESS",
        help="run scripted tests on an engine that somebody else has started and that listens at "
        "tcp://HOST:PORT (its SCRIPTED_LISTEN); tests that want other server arguments are skipped",
    )
    group.addoption(
        "--scripted-key",
        default=None,
        metavar="FILE",
        help="the client's key for --scripted-attach (default: $SCRIPTED_CLIENT_KEY_FILE)",
    )
    group.addoption(
        "--scripted-seed",
        type=int,
        default=None,
        metavar="N",
        help="seed of automatic rids (default: 0)",
    )
    group.addoption(
        "--scripted-trace",
        default=None,
        metavar="DIR",
        help="write what each scripted test did, iteration by iteration, to DIR as JSON lines",
    )
    group.addoption(
        "--scripted-timeout",
        type=float,
        default=None,
        metavar="SECONDS",
        help="time limit of one scripted test (default: none; a stall has a limit of its own)",
    )
    parser.addini("scripted_backend", "engines for scripted tests", type="args", default=[])
    parser.addini(
        "scripted_engine_args", "server arguments, NAME=VALUE each", type="args", default=[]
    )
    parser.addini("scripted_attach", "address of an engine to attach to", default="")
    parser.addini("scripted_key", "the client's key file for it", default="")
    parser.addini("scripted_seed", "seed of automatic rids", default="0")
    parser.addini("scripted_trace", "folder for traces of scripted tests", default="")
    parser.addini("scripted_timeout", "time limit of one scripted test in seconds", default="")


def register_markers(config: pytest.Config) -> None:
    """The markers, with what ``pytest --markers`` says of them."""
    for line in (
        "scripted(**engine_kwargs): run this generator as a script inside an engine that was "
        "started with these server arguments; function over class over module",
        "scripted_requires(*capabilities): skip, with this reason, on an engine without them",
        "scripted_options(check_invariants=True, timeout_s=None, stall_timeout_s=None): how the "
        "script is run",
        "scripted_known_defect(engine, finding, match, releases=''): on these releases of this "
        "engine the test has to fail with a message that matches, for the reason on the page",
    ):
        config.addinivalue_line("markers", line)


def option(config: pytest.Config, name: str) -> str | None:
    """An option as text: the command line's value, then the ini file's, then ``None``."""
    value = config.getoption(name)
    if value is None:
        value = config.getini(name) or None
    return None if value is None else str(value)


def backends(config: pytest.Config) -> list[str]:
    """The engines that were asked for, without repeats; empty for the default."""
    chosen = config.getoption("scripted_backend") or config.getini("scripted_backend")
    return list(dict.fromkeys(chosen))


def engine_args(config: pytest.Config) -> dict[str, Any]:
    """Server arguments of the ini file and, over them, of the command line; ``UsageError``."""
    from scripted_core.engine_args import parse_engine_args
    from scripted_core.errors import ConfigError

    try:
        return {
            **parse_engine_args(
                config.getini("scripted_engine_args"), option="scripted_engine_args"
            ),
            **parse_engine_args(
                config.getoption("scripted_engine_arg"), option="--scripted-engine-arg"
            ),
        }
    except ConfigError as error:
        raise pytest.UsageError(str(error)) from None


def attach_to(config: pytest.Config) -> AttachTo | None:
    """The engine to attach to; ``UsageError`` when that contradicts other options, or cannot be.

    A relative key file is found as ``--scripted-trace`` is.
    """
    address = option(config, "scripted_attach")
    if address is None:
        return None
    from scripted_core.errors import ConfigError
    from scripted_core.sessions.attached import AttachTo
    from scripted_core.wire.tcp import parse_tcp

    for name, given in (
        ("--scripted-backend", backends(config)),
        ("--scripted-engine-arg", engine_args(config)),
    ):
        if given:
            raise pytest.UsageError(
                f"--scripted-attach {address}: that engine runs already, so {name} has no place "
                "beside it"
            )
    key = option(config, "scripted_key")
    base = config.rootpath if config.getoption("scripted_key") is None else _called_from(config)
    try:
        parse_tcp(address, what="scripted_attach")
        to = AttachTo(address=address, key_file=None if key is None else base / key)
        to.key_path  # noqa: B018 - raises when there is none
    except ConfigError as error:
        raise pytest.UsageError(str(error)) from None
    return to


def _called_from(config: pytest.Config) -> Path:
    return config.invocation_params.dir


def seed(config: pytest.Config) -> int:
    """The seed; ``UsageError`` when it is no whole number of at least 0."""
    text = option(config, "scripted_seed") or "0"
    try:
        value = int(text)
    except ValueError:
        value = -1
    if value < 0:
        raise pytest.UsageError(f"scripted_seed={text!r} is not a whole number of at least 0")
    return value


def timeout_s(config: pytest.Config) -> float | None:
    """The time limit of one test in seconds; ``UsageError`` when it is no positive number."""
    text = option(config, "scripted_timeout")
    if text is None:
        return None
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise pytest.UsageError(f"scripted_timeout={text!r} is not a positive number of seconds")
    return value


def trace_folder(config: pytest.Config) -> Path | None:
    """Where traces go, as an absolute path: a test may change the working directory.

    A relative path of the command line is relative to where pytest was called, one of the ini file
    to the root directory. ``UsageError`` when it is there and is no folder.
    """
    given = config.getoption("scripted_trace")
    base = config.rootpath if given is None else _called_from(config)
    text = option(config, "scripted_trace")
    if not text:
        return None
    folder = base / text
    if folder.exists() and not folder.is_dir():
        raise pytest.UsageError(f"scripted_trace={text!r} is not a folder")
    return folder


def check_options(config: pytest.Config) -> None:
    """``UsageError`` for an option or an ini value that cannot be used."""
    seed(config)
    timeout_s(config)
    trace_folder(config)
    if config.getoption("scripted_engine_arg") or config.getini("scripted_engine_args"):
        engine_args(config)
    attach_to(config)
