"""Engine arguments on their way to a server: as JSON, in a file or on standard input."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from scripted_registry.errors import ConfigError

DEVICE_TIMER_VARIABLE: Final = "SGLANG_ENABLE_METRICS_DEVICE_TIMER"
"""What switches SGLang's device timer on, and this engine's like `enable_metrics_device_timer`."""

_TRUE: Final = frozenset({"true", "1", "yes", "y"})
_FALSE: Final = frozenset({"false", "0", "no", "n", ""})


def arguments_as_json(kwargs: Mapping[str, object]) -> str:
    """`kwargs` as JSON text; `ConfigError` for what JSON cannot hold, or UTF-8 cannot."""
    refuse_lone_surrogates(kwargs)
    try:
        return json.dumps(kwargs, default=os.fspath)
    except TypeError as error:
        raise ConfigError(
            f"an engine argument cannot be written as JSON: {error}",
            hint="use numbers, texts, lists and mappings",
        ) from error


def read_arguments(source: str | None) -> dict[str, Any]:
    """The JSON object in the file `source`; `-` is standard input, and `None` no arguments.

    Raises `ConfigError` when there is none.
    """
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
    refuse_lone_surrogates(kwargs)
    return kwargs


def refuse_lone_surrogates(kwargs: Mapping[str, object]) -> None:
    """Raise `ConfigError` for text that no UTF-8 is: neither process nor client could be told it."""
    for name, value in kwargs.items():
        try:
            json.dumps({name: value}, ensure_ascii=False, default=str).encode()
        except UnicodeEncodeError as error:
            raise ConfigError(
                f"engine argument {name!a}={value!a} is no Unicode text",
                hint="leave out the lone surrogate (\\ud800 to \\udfff)",
            ) from error


def asks_for_device_timer(environ: Mapping[str, str]) -> bool:
    """Whether the variable asks for a timer; `ConfigError` when it is neither true nor false."""
    value = environ.get(DEVICE_TIMER_VARIABLE, "").lower()
    if value not in _TRUE | _FALSE:
        raise ConfigError(
            f"{DEVICE_TIMER_VARIABLE}={value!r} is neither true nor false", hint="use 1 or 0"
        )
    return value in _TRUE
