"""Drawing the listing and errors on a terminal or into a pipe."""

from __future__ import annotations

import os

from rich.console import Console
from rich.table import Table
from rich.text import Text

from scripted_registry.ci.listing import CiListing, StageRow
from scripted_registry.ci.scan import CiRegistration
from scripted_registry.errors import ScriptedError

# In a pipe there is no width to fit into, and a wrapped path cannot be searched for.
_PIPE_WIDTH = 160


def print_listing(listing: CiListing) -> None:
    """Print one table of stages and, when there are any, one of tests."""
    console = Console()
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console = Console(width=_PIPE_WIDTH)
    console.print(_stage_table(listing))
    if any(row.tests for row in listing.rows):
        console.print(_test_table(listing))


def print_error(error: ScriptedError) -> None:
    """Print an error in red and its hint below it, to stderr."""
    console = Console(stderr=True, soft_wrap=True, highlight=False)
    console.print(Text(f"error: {error.message}", style="red"))
    if error.hint is not None:
        console.print(Text(f"hint: {error.hint}", style="yellow"))


def duration(seconds: float | None) -> str:
    """Return a duration for people: "-", "8 s", "3 min 20 s", "1 h 5 min"."""
    if seconds is None:
        return "-"
    whole = max(1, round(seconds))
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    if minutes < 60:
        return f"{minutes} min {rest} s" if rest else f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if minutes else f"{hours} h"


def _stage_table(listing: CiListing) -> Table:
    table = Table(title="CI stages", title_justify="left")
    for heading in ("stage", "runner", "engine"):
        table.add_column(heading)
    table.add_column("tests", justify="right")
    table.add_column("estimated", justify="right")
    table.add_column("distribution")
    for row in listing.rows:
        stage = row.stage
        name = f"{stage.name} (nightly)" if stage.nightly else stage.name
        cells = (name, stage.runner, stage.engine or "-", _count(row), duration(row.est_time_s))
        table.add_row(*map(Text, cells), Text(stage.distribution or "-"))
    return table


def _count(row: StageRow) -> str:
    disabled = len(row.tests) - len(row.enabled)
    return f"{len(row.enabled)} (+{disabled} disabled)" if disabled else str(len(row.enabled))


def _test_table(listing: CiListing) -> Table:
    table = Table(title="Registered tests", title_justify="left")
    table.add_column("test", overflow="fold")
    table.add_column("suite")
    table.add_column("estimated", justify="right")
    table.add_column("notes")
    for row in listing.rows:
        for test in row.tests:
            cells = (
                f"{test.path}:{test.line}",
                test.suite,
                duration(test.est_time_s),
                _notes(test),
            )
            table.add_row(*map(Text, cells))
    return table


def _notes(test: CiRegistration) -> str:
    notes = ["nightly"] if test.nightly else []
    if test.disabled is not None:
        notes.append(f"disabled: {test.disabled}")
    return ", ".join(notes)
