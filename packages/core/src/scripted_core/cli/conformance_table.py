"""The rows as a table, and how far the run is while it lasts."""

from __future__ import annotations

import os
from types import TracebackType

from rich import box
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from rich.text import Text

from scripted_core.cli.console import ResultConsole
from scripted_core.cli.text import printable
from scripted_core.conformance.verdict import Conformance, Row, Verdict

_PIPE_WIDTH = 200
_STYLES = {Verdict.DOES: "green", Verdict.SKIPS: "yellow", Verdict.WRONG: "bold red"}


class Watcher:
    """A progress bar on stderr, when that is a terminal."""

    def __init__(self, *, total: int, engine: str) -> None:
        console = Console(stderr=True)
        self._progress = Progress(console=console, transient=True, disable=not console.is_terminal)
        self._task = self._progress.add_task(f"starting {engine}", total=total)

    def __enter__(self) -> Watcher:
        self._progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._progress.stop()

    def row(self, row: Row) -> None:
        """One more is known."""
        self._progress.update(self._task, advance=1, description=f"{row.call}: {row.verdict}")


def print_table(result: Conformance) -> None:
    """Print the rows, those of one call together, and the figures below."""
    console = ResultConsole(highlight=False)
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console = ResultConsole(width=_PIPE_WIDTH, highlight=False)
    table = Table(
        title=f"Conformance of {result.backend}",
        title_justify="left",
        box=box.SIMPLE_HEAD if console.is_terminal else box.ASCII2,
        pad_edge=False,
    )
    for heading in ("call", "means", "verdict", "seen"):
        table.add_column(heading, overflow="fold")
    call = None
    for row in result.rows:
        table.add_row(
            Text("" if row.call == call else row.call),
            Text(row.means),
            Text(row.verdict.value, style=_STYLES[row.verdict]),
            Text(printable(row.seen)),
        )
        call = row.call
    console.print(table)
    console.print(Text(result.summary, style="bold red" if result.wrong else "bold"))
