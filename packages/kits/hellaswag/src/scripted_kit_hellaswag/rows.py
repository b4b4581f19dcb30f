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
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"{file} cannot be read: {error}", hint="-o data=FILE takes HellaSwag's JSONL"
        ) from error
    rows, bad = parse_rows(lines)
    if not rows:
        first = f"; line {bad[0].line}: {bad[0].reason}" if bad else ""
        raise ConfigError(
            f"{file} has no row of HellaSwag in its {len(lines)} lines{first}",
            hint='a row is {"ctx": "…", "endings": ["…", …], "label": 0}',
        )
    return rows, bad


def parse_rows(lines: Iterable[str]) -> tuple[list[Row], list[BadRow]]:
    """The rows, and the lines that are none; empty lines are neither."""
    rows: list[Row] = []
    bad: list[BadRow] = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            rows.append(_row(number, json.loads(line)))
        except ValueError as error:
            bad.append(BadRow(line=number, reason=str(error)))
    return rows, bad


def _row(number: int, fields: Any) -> Row:
    if not isinstance(fields, Mapping):
        raise ValueError("it is no JSON object")
    endings = fields.get("endings")
    if not isinstance(endings, list) or len(endings) < 2:
        raise ValueError("it has no two endings")
    if not all(isinstance(one, str) and one.strip() for one in endings):
        raise ValueError("an ending is empty, or no text")
    if len(set(endings)) < len(endings):
        raise ValueError("two endings are the same")
    try:
        label = int(fields.get("label", ""))
    except (TypeError, ValueError):
        raise ValueError(f"its label is {fields.get('label')!r}") from None
    if not 0 <= label < len(endings):
        raise ValueError(f"its label {label} is of no ending")
    return Row(
        line=number,
        context=_context(fields),
        endings=tuple(_clean(one) for one in endings),
        label=label,
    )


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
    return _clean(f"{activity}: {text}" if isinstance(activity, str) and activity else text)


def _clean(text: str) -> str:
    """Without the marks of the how-to articles, as others who score this data set have it."""
    return _SPACES.sub(" ", _BRACKETS.sub("", text.replace(" [title]", ". "))).strip()
