"""A report on a terminal, or as plain text in a pipe."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text
from scripted_core.cli.text import printable

from scripted_kit_client.report import KitReport, Outcome, Table

_STYLES = {
    Outcome.PASSED: "green",
    Outcome.FAILED: "bold red",
    Outcome.SKIPPED: "yellow",
    Outcome.BROKEN: "bold magenta",
}


def print_report(report: KitReport, *, console: Console | None = None) -> None:
    """Figures first, then what they were judged as."""
    console = console or Console()
    for table in report.tables:
        console.print(_drawn(table))
    if report.checks:
        console.print(_checks(report))
    seconds = f"{report.duration_s:.1f} s"
    server = f"{report.engine or 'server'} at {report.url}"
    line = Text(f"kit {report.kit}: ").append(report.outcome, style=_STYLES[report.outcome])
    console.print(line.append(f" on {server} in {seconds}"))


def _drawn(table: Table) -> RichTable:
    drawn = RichTable(title=table.title, title_justify="left")
    for i, column in enumerate(table.columns):
        drawn.add_column(column, justify="left" if i == 0 else "right")
    for row in table.rows:
        drawn.add_row(*(Text(printable(cell)) for cell in row))
    return drawn


def _checks(report: KitReport) -> RichTable:
    drawn = RichTable(title="checks", title_justify="left")
    drawn.add_column("check", no_wrap=True)
    drawn.add_column("outcome", no_wrap=True)
    drawn.add_column("seen", overflow="fold")
    for check in report.checks:
        outcome = Text(check.outcome, style=_STYLES[check.outcome])
        drawn.add_row(check.name, outcome, Text(printable(check.message)))
    return drawn
