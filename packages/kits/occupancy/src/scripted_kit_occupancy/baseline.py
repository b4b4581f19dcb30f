"""What was measured on a runner before, and the floor that follows from it."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from scripted_core.errors import ConfigError
from scripted_kit_client.output.files import look_at_output


def key_of(*, engine: str, model: str, tokens: int, runner: str) -> str:
    """What a median is recorded under: an engine with a model on a kind of machine, and a length.

    Of a longer request forwards take longer, and with them more of the time.
    """
    return f"{engine}/{model.rstrip('/').rpartition('/')[2]}/{tokens} tokens/{runner}"


def floor_from(file: Path, key: str, *, margin: float) -> float:
    """The recorded median less `margin` points; `ConfigError` when there is none under `key`."""
    records = _read(file)
    try:
        median = float(records[key]["median"])
        if not math.isfinite(median):
            raise ValueError(median)
        return median - margin
    except (KeyError, TypeError, ValueError) as error:
        raise ConfigError(
            f"{file} has no median for {key!r}",
            hint=f"record one on that machine: -o record={file}",
        ) from error


def record(file: Path, key: str, *, median: float, samples: int) -> None:
    """Write a median into the file, beside what is there of others."""
    records = _read(file) if file.exists() else {}
    records[key] = {"median": round(median, 2), "samples": samples}
    try:
        file.write_text(json.dumps(records, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    except OSError as error:
        raise ConfigError(
            f"the median cannot be recorded in {file}: {error.strerror}",
            hint="name a file in a folder that is there",
        ) from error


def look_at(file: Path) -> None:
    """Do nothing when a median can be recorded there; `ConfigError` when not, before it is measured."""
    look_at_output(file, what="the median")
    if file.exists():
        _read(file)


def _read(file: Path) -> dict[str, Any]:
    try:
        records = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"{file} cannot be read as recorded medians: {error}", hint="-o record=FILE writes one"
        ) from error
    if not isinstance(records, dict):
        raise ConfigError(f"{file} holds no object", hint="-o record=FILE writes one")
    return records
