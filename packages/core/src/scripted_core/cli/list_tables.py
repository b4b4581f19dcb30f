"""What is installed, as tables."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

from rich import box
from rich.table import Table
from rich.text import Text

from scripted_core.cli.console import ResultConsole

_PIPE_WIDTH = 160
_TITLES = {
    "engines": "Engines",
    "exhausters": "Exhausters",
    "kits": "Kits",
    "stages": "CI stages",
}


def print_installed(installed: Mapping[str, Sequence[Mapping[str, Any]]]) -> None:
    """Print one table for each kind; a kind of which nothing is installed says so in a line."""
    console = ResultConsole(highlight=False)
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console = ResultConsole(width=_PIPE_WIDTH, highlight=False)
    for kind, rows in installed.items():
        if not rows:
            console.print(Text(f"{_TITLES[kind]}: none installed"))
            continue
        table = Table(
            title=_TITLES[kind],
            title_justify="left",
            box=box.SIMPLE_HEAD if console.is_terminal else box.ASCII2,
            pad_edge=False,
        )
        for heading in rows[0]:
            table.add_column(heading, overflow="fold")
        for row in rows:
            table.add_row(*(_cell(heading, value) for heading, value in row.items()))
        console.print(table)


def _cell(heading: str, value: Any) -> Text:
    if value is None:
        return Text("-")
    if isinstance(value, list):
        return Text(", ".join(value))
    return Text(str(value), style="yellow" if heading == "missing" else "")
