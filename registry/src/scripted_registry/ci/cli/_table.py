"""Drawing the listing and errors on a terminal or into a pipe."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator

from rich.console import Console
from rich.table import Table
from rich.text import Text

from scripted_registry.ci.build import expected_partition
from scripted_registry.ci.durations import duration
from scripted_registry.ci.listing import CiListing, StageRow
from scripted_registry.ci.manifest import Manifest, ManifestStage
from scripted_registry.ci.partition import Job
from scripted_registry.ci.scan import CiRegistration
from scripted_registry.ci.timings import Timings
from scripted_registry.errors import ScriptedError

# In a pipe there is no width to fit into, and a wrapped path cannot be searched for.
_PIPE_WIDTH = 160


def print_listing(listing: CiListing) -> None:
    """Print one table of stages and, when there are any, one of tests."""
    console = _console()
    console.print(_stage_table(listing))
    if any(row.tests for row in listing.rows):
        console.print(_test_table(listing))


def print_error(error: ScriptedError) -> None:
    """Print an error in red and its hint below it, to stderr."""
    console = Console(stderr=True, soft_wrap=True, highlight=False)
    console.print(Text(f"error: {error.message}", style="red"))
    if error.hint is not None:
        console.print(Text(f"hint: {error.hint}", style="yellow"))


def print_manifest(manifest: Manifest, timings: Timings) -> None:
    """Print a table of the shards of every stage, then how much was registered."""
    console = _console()
    table = Table(title="CI stages", title_justify="left")
    for heading in ("stage", "runner", "engine"):
        table.add_column(heading)
    table.add_column("tests", justify="right")
    table.add_column("estimated", justify="right")
    table.add_column("shard", justify="right")
    table.add_column("distribution")
    for stage in manifest.stages:
        for row in _manifest_rows(stage, timings):
            table.add_row(*map(Text, row))
    console.print(table)
    files = {file.path for stage in manifest.stages for file in stage.files}
    console.print(f"{len(files)} test files are registered", highlight=False)


def _manifest_rows(stage: ManifestStage, timings: Timings) -> Iterator[tuple[str, ...]]:
    start = (stage.name, stage.runner, stage.engine or "-")
    distribution = stage.distribution or "-"
    if not stage.runs:
        yield (*start, "0", "-", "-", distribution)
    for run in stage.runs:
        named = (f"{stage.name} (nightly)" if run.nightly else stage.name, *start[1:])
        if not stage.takes_tests:
            yield (*named, "-", duration(run.est_time_s), "1/1", distribution)
            continue
        divided = expected_partition(stage, run, timings.suite(stage.suite))
        for number, shard in enumerate(divided.shards, start=1):
            place = f"{number}/{run.shards}"
            yield (*named, _jobs(shard.jobs), duration(shard.cost_s), place, distribution)


def _jobs(jobs: Iterable[Job]) -> str:
    """How many tests, and how many files of which no test was ever timed."""
    found = list(jobs)
    tests = sum("::" in job.name for job in found)
    files = len(found) - tests
    if not files:
        return str(tests)
    said = "1 file" if files == 1 else f"{files} files"
    return f"{tests} + {said}" if tests else said


def _console() -> Console:
    console = Console()
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console = Console(width=_PIPE_WIDTH)
    return console


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
