"""The ways to look at a run: live on a terminal, as a table, or with the verdict only."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path

from rich.console import Console
from rich.text import Text

from scripted_core.cli.console import ResultConsole
from scripted_core.cli.results import Heading, Ran, RunView
from scripted_core.cli.trace_table import table_lines
from scripted_core.cli.verdict import heading_line, left_out_line, verdict_lines
from scripted_core.cli.view_choice import View
from scripted_core.trace import StepListener

_PIPE_WIDTH = 240


def make_view(view: View, *, slow_s: float) -> RunView:
    """The view that was asked for, on stdout."""
    console = make_console()
    terminal = console.is_terminal and not console.is_dumb_terminal
    if view is View.LIVE or (view is View.AUTO and terminal):
        from scripted_core.cli.live import LiveView

        return LiveView(console, moves=terminal, slow_s=slow_s)
    return PlainView(console, table=view is not View.NONE)


def make_console() -> Console:
    """stdout; wide when it is no terminal and nobody says how wide it is."""
    console = ResultConsole(highlight=False, file=sys.stdout)
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console = ResultConsole(file=sys.stdout, width=_PIPE_WIDTH, highlight=False)
    return console


def print_lines(console: Console, lines: Sequence[Text]) -> None:
    """A terminal gets them wrapped between words, but for those that hold lines of their own."""
    for line in lines:
        console.print(line, soft_wrap=not console.is_terminal or "\n" in line.plain)


class PlainView:
    """Prints each script when it has ended, with a table of its iterations or without."""

    def __init__(self, console: Console, *, table: bool) -> None:
        self._console = console
        self._table = table

    def left_out(self, name: str, reason: str, path: Path) -> None:
        """A line on stdout."""
        print_lines(self._console, [left_out_line(name, reason, path)])

    def starting(self, engine: str) -> AbstractContextManager[object]:
        """Nothing: stdout is for results."""
        return contextlib.nullcontext()

    def begin(self, heading: Heading) -> StepListener | None:
        """Nobody watches."""
        return None

    def end(self, result: Ran) -> None:
        """Heading, iterations, and what was checked or what went wrong."""
        print_lines(self._console, [heading_line(result.heading)])
        if self._table and result.trace:
            for line in table_lines(result.trace, width=self._console.width):
                self._console.print(line, soft_wrap=True)
        print_lines(self._console, verdict_lines(result))

    def interrupted(self) -> None:
        """Nothing was printed of the script that ran."""


class NoView:
    """Shows nothing: the results are for another program."""

    def left_out(self, name: str, reason: str, path: Path) -> None:
        """Nothing."""

    def starting(self, engine: str) -> AbstractContextManager[object]:
        """Nothing."""
        return contextlib.nullcontext()

    def begin(self, heading: Heading) -> StepListener | None:
        """Nobody watches."""
        return None

    def end(self, result: Ran) -> None:
        """Nothing."""

    def interrupted(self) -> None:
        """Nothing."""
