"""Command-line options, their ini twins, and markers."""

from __future__ import annotations

import pytest


def add_options(parser: pytest.Parser) -> None:
    """Everything that ``pytest --help`` shows under "scripted"."""
    group = parser.getgroup("scripted", "scripts that drive an LLM engine's scheduler")
    group.addoption(
        "--scripted-backend",
        action="append",
        default=[],
        metavar="NAME",
        help="engine to run scripted tests on; repeat it to run every test on each "
        "(default: reference, when it is installed)",
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


def number(config: pytest.Config, name: str, kind: type[int] | type[float]) -> float | None:
    """A numeric option; ``UsageError`` that names it when it is none or negative."""
    text = option(config, name)
    if text is None:
        return None
    try:
        value = kind(text)
    except ValueError:
        raise pytest.UsageError(f"{name}={text!r} is not a number") from None
    if value < 0:
        raise pytest.UsageError(f"{name}={text!r} is negative")
    return value
