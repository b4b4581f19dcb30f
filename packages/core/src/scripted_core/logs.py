"""Logs of scripted: structlog events that carry session, script, step and rank.

``SCRIPTED_LOG`` chooses ``console`` (the default; colour in a terminal only) or ``json``, and
``SCRIPTED_LOG_LEVEL`` the least level that is written to stderr (default ``warning``). The
application's own structlog configuration is neither used nor changed.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys
from collections.abc import Iterator, Mapping
from enum import StrEnum
from functools import cache
from typing import Any, Protocol, TextIO, cast

import structlog

from scripted_core.errors import ConfigError

ENV_LOG = "SCRIPTED_LOG"
ENV_LOG_LEVEL = "SCRIPTED_LOG_LEVEL"


class LogFormat(StrEnum):
    """How an event is written."""

    CONSOLE = "console"
    JSON = "json"


class Sink(Protocol):
    """What events are written to."""

    def write(self, text: str, /) -> int:
        """Write one line."""
        ...

    def flush(self) -> None:
        """Write out what is buffered."""
        ...


_context: dict[str, object] = {}


def set_log_context(**values: object) -> None:
    """Add ``session``, ``script``, ``step`` or ``rank`` to every later event of this process.

    ``None`` takes a value away again.
    """
    for name, value in values.items():
        if value is None:
            _context.pop(name, None)
        else:
            _context[name] = value


def get_logger(name: str) -> structlog.typing.FilteringBoundLogger:
    """The logger of one part of scripted."""
    return make_logger(name, environ_format(os.environ), environ_level(os.environ), _Stderr())


def environ_format(environ: Mapping[str, str]) -> LogFormat:
    """The chosen format; ``ConfigError`` for an unknown one."""
    text = environ.get(ENV_LOG, LogFormat.CONSOLE)
    try:
        return LogFormat(text)
    except ValueError:
        raise ConfigError(
            f"{ENV_LOG}={text!r} is no log format",
            hint=f"one of {', '.join(known.value for known in LogFormat)}",
        ) from None


def environ_level(environ: Mapping[str, str]) -> int:
    """The least level that is written; ``ConfigError`` for an unknown one."""
    text = environ.get(ENV_LOG_LEVEL, "warning")
    level = logging.getLevelNamesMapping().get(text.upper())
    if level is None:
        raise ConfigError(
            f"{ENV_LOG_LEVEL}={text!r} is no log level",
            hint="one of debug, info, warning, error, critical",
        )
    return level


def make_logger(
    name: str, log_format: LogFormat, level: int, file: Sink
) -> structlog.typing.FilteringBoundLogger:
    """A logger that writes to ``file``, whatever structlog is configured to do elsewhere."""
    return cast(
        "structlog.typing.FilteringBoundLogger",
        structlog.wrap_logger(
            structlog.WriteLogger(cast("TextIO", file)),
            processors=[
                _add_context,
                structlog.processors.add_log_level,
                _capture,
                structlog.processors.TimeStamper(fmt="iso"),
                structlog.processors.StackInfoRenderer(),
                _renderer(log_format),
            ],
            wrapper_class=structlog.make_filtering_bound_logger(level),
        ).bind(logger=name),
    )


@cache
def _renderer(log_format: LogFormat) -> Any:
    if log_format is LogFormat.JSON:
        # JSON has no traceback renderer of its own: the exception becomes one text field.
        return _chain(
            structlog.processors.format_exc_info, structlog.processors.JSONRenderer(sort_keys=True)
        )
    return structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())


def _chain(*processors: Any) -> Any:
    def run(logger: Any, method: str, event: Any) -> Any:
        for processor in processors:
            event = processor(logger, method, event)
        return event

    return run


def _add_context(logger: Any, method: str, event: Any) -> Any:
    return {**_context, **event}


_captured: list[dict[str, Any]] | None = None


@contextlib.contextmanager
def capture_logs() -> Iterator[list[dict[str, Any]]]:
    """For tests: collect events as dicts, of every thread, instead of writing them."""
    global _captured
    before, _captured = _captured, []
    try:
        yield _captured
    finally:
        _captured = before


def _capture(logger: Any, method: str, event: Any) -> Any:
    if _captured is not None:
        _captured.append(dict(event))
        raise structlog.DropEvent
    return event


class _Stderr:
    """Whatever ``sys.stderr`` is at the moment of writing: pytest swaps it for each test."""

    def write(self, text: str, /) -> int:
        return sys.stderr.write(text)

    def flush(self) -> None:
        sys.stderr.flush()
