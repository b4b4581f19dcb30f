"""Rows of HellaSwag's JSONL, those of the public data set and shorter ones; bad ones are named."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scripted_core.errors import ConfigError

_BRACKETS = re.compile(r"\[.*?\]")
_SPACES = re.compile(r" {2,}")


@dataclass(frozen=True, kw_only=True)
class Row:
    """A beginning, its endings, and the index of the right one; `line` is where it stands."""

    line: int
    context: str
    endings: tuple[str, ...]
    label: int


@dataclass(frozen=True, kw_only=True)
class BadRow:
    """A line that is no such row, and why."""

    line: int
    reason: str


def read_rows(file: Path) -> tuple[list[Row], list[BadRow]]:
    """All rows of a file; `ConfigError` when it cannot be read, or has no good row."""
    try:
        with file.open("rb") as lines:
            rows, bad, count = _parsed(lines)
    except OSError as error:
        raise ConfigError(
            f"{file} cannot be read: {error.strerror}", hint="-o data=FILE takes HellaSwag's JSONL"
        ) from error
    if not rows:
        first = f"; line {bad[0].line}: {bad[0].reason}" if bad else ""
        raise ConfigError(
            f"{file} has no row of HellaSwag in its {count} lines{first}",
            hint='a row is {"ctx": "…", "endings": ["…", …], "label": 0}',
        )
    return rows, bad


def parse_rows(lines: Iterable[bytes]) -> tuple[list[Row], list[BadRow]]:
    """The rows, and the lines that are none; empty lines are neither.

    Lines are bytes, as a file has them: a line separator of Unicode may stand inside of a text.
    """
    rows, bad, _ = _parsed(lines)
    return rows, bad


def _parsed(lines: Iterable[bytes]) -> tuple[list[Row], list[BadRow], int]:
    rows: list[Row] = []
    bad: list[BadRow] = []
    number = 0
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            rows.append(_row(number, json.loads(line.decode("utf-8-sig"))))
        except RecursionError:
            bad.append(BadRow(line=number, reason="it is nested too deep"))
        except UnicodeDecodeError as error:
            bad.append(BadRow(line=number, reason=f"it is no UTF-8 ({error.reason})"))
        except ValueError as error:
            bad.append(BadRow(line=number, reason=str(error)))
    return rows, bad, number


def _row(number: int, fields: Any) -> Row:
    if not isinstance(fields, Mapping):
        raise ValueError("it is no JSON object")
    endings = fields.get("endings")
    if not isinstance(endings, list) or len(endings) < 2:
        raise ValueError("it has no two endings")
    if not all(isinstance(one, str) and one.strip() for one in endings):
        raise ValueError("an ending is empty, or no text")
    endings = [_clean(one) for one in endings]
    if not all(endings):
        raise ValueError("an ending is empty without its marks")
    if len(set(endings)) < len(endings):
        raise ValueError("two endings are the same")
    label = _label(fields.get("label"))
    if not 0 <= label < len(endings):
        raise ValueError(f"its label {label} is of no ending")
    return Row(
        line=number,
        context=_context(fields),
        endings=tuple(endings),
        label=label,
    )


def _label(value: object) -> int:
    """An index as a number, or as the public data set has it, as text."""
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    if isinstance(value, str) and value.isascii() and value.isdecimal():
        return int(value)
    raise ValueError(f"its label is {value!r:.40}")


def _context(fields: Mapping[str, Any]) -> str:
    """`ctx_a` and `ctx_b` where they are there, else `ctx`, behind what the activity is called."""
    first, second = fields.get("ctx_a"), fields.get("ctx_b")
    if isinstance(first, str) and isinstance(second, str):
        text = f"{first} {second.capitalize()}"
    else:
        text = fields.get("ctx", "")
    if not isinstance(text, str) or not text.strip():
        raise ValueError("it has no context (ctx)")
    activity = fields.get("activity_label")
    text = _clean(f"{activity}: {text}" if isinstance(activity, str) and activity else text)
    if not text:
        raise ValueError("it has no context without its marks")
    return text


def _clean(text: str) -> str:
    """Without the marks of the how-to articles, as others who score this data set have it."""
    text = _SPACES.sub(" ", _BRACKETS.sub("", text.replace(" [title]", ". "))).strip()
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError(
            "it has half of a character (a lone surrogate), which cannot be sent"
        ) from None
    return text
