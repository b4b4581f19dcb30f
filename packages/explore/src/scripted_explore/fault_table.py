"""`python -m scripted_explore.fault_table`: how long exploration takes to find each seeded fault."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Final

import msgspec
import typer
from scripted_core.errors import ConfigError
from scripted_core.sessions.base import EMBEDDED
from scripted_reference.faults.catalogue import FAULTS
from scripted_reference.faults.fault import Area, Fault

from scripted_explore.campaign import Task, run_task

DOCS_FILE: Final = Path("docs/explore.md")
BEGIN: Final = "<!-- explored faults: begin, written by `hatch run explore-faults --write-docs` -->"
END: Final = "<!-- explored faults: end -->"
WITHIN_S: Final = 60.0
MOST_OPERATIONS: Final = 10
_OUT_OF_REACH: Final = frozenset({"prefix-shared-across-adapters"})
"""Found by no script either: it takes two adapters, and none is shipped."""
_TOPOLOGIES: Final = {
    Area.WINDOWS: ("swa",),
    Area.PIPELINE: ("pp",),
    Area.PAIR: ("pd",),
    Area.SPECULATION: ("ngram", "spec"),
}
_BY_NAME: Final = {"dp-rank-ignored": ("dp",), "logprob-lost-at-chunk-border": ("tiny",)}


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """What exploration made of one fault."""

    fault: str
    found_as: str = ""
    steps: int = 0
    seconds: float = 0.0
    shrinking_s: float = 0.0
    operations: int = 0

    @property
    def is_found(self) -> bool:
        """Whether anything was seen."""
        return bool(self.found_as)


def topologies_of(fault: Fault) -> tuple[str, ...]:
    """Engines that have the part that a fault breaks; which order of events shows it is not told."""
    return _BY_NAME.get(fault.name) or _TOPOLOGIES.get(fault.area) or ("single",)


def measure(name: str, *, seed: int = 0, max_seconds: float = 2 * WITHIN_S) -> Row:
    """Explore an engine with one fault until something is found, then shrink it."""
    task = Task(
        backend=EMBEDDED,
        topologies=topologies_of(FAULTS[name]),
        kwargs={"inject_fault": name},
        seed=seed,
        max_seconds=max_seconds,
        stop_at_first=True,
    )
    outcome = run_task(task)
    if not outcome.findings:
        return Row(fault=name, steps=outcome.report.steps, seconds=outcome.seconds)
    finding = outcome.findings[0]
    return Row(
        fault=name,
        found_as=str(finding.signature),
        steps=finding.steps,
        seconds=finding.seconds,
        shrinking_s=finding.shrinking_s,
        operations=len(finding.program.ops),
    )


def table(rows: Sequence[Row]) -> str:
    """The rows as a Markdown table, and a line that sums them up."""
    found = [row for row in rows if row.is_found]
    soon = sum(row.seconds <= WITHIN_S for row in found)
    small = sum(row.operations <= MOST_OPERATIONS for row in found)
    lines = [
        f"{len(found)} of {len(rows)} faults found, {soon} of them within {WITHIN_S:.0f} s, {small} "
        f"shrunk to {MOST_OPERATIONS} operations or fewer.",
        "",
        "| fault | found as | steps to find | seconds | operations after shrinking | s to shrink |",
        "|---|---|---|---|---|---|",
    ]
    for row in rows:
        if row.is_found:
            cells = [
                f"`{row.fault}`",
                row.found_as,
                f"{row.steps:,}",
                f"{row.seconds:.1f}",
                str(row.operations),
                f"{row.shrinking_s:.1f}",
            ]
        else:
            cells = [
                f"`{row.fault}`",
                "**not found**",
                f"{row.steps:,}",
                f"{row.seconds:.0f}",
                "",
                "",
            ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main(
    only: Annotated[list[str] | None, typer.Option(help="This fault only; repeatable.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the programs.")] = 0,
    max_seconds: Annotated[
        float, typer.Option(min=1, help="Give a fault up after so many seconds.")
    ] = 2 * WITHIN_S,
    minutes: Annotated[
        float | None,
        typer.Option(min=0.01, help="Begin with no further fault after so many minutes."),
    ] = None,
    rows_file: Annotated[
        Path | None,
        typer.Option(
            "--rows",
            metavar="FILE",
            help="Keep the rows here, and measure no fault again that is in it: for a table in pieces.",
        ),
    ] = None,
    write_docs: Annotated[
        bool, typer.Option("--write-docs", help=f"Write the table of {DOCS_FILE}.")
    ] = False,
) -> None:
    """Explore the reference engine with one seeded fault after the other, and print what was found."""
    names = only or [name for name in FAULTS if name not in _OUT_OF_REACH]
    for name in names:
        if name not in FAULTS:
            typer.echo(f"error: no seeded fault is called {name!r}", err=True)
            raise typer.Exit(2)
    known = {} if rows_file is None else read_rows(rows_file)
    started = time.monotonic()
    for name in names:
        if name in known:
            continue
        if minutes is not None and time.monotonic() - started > 60 * minutes:
            break
        row = known[name] = measure(name, seed=seed, max_seconds=max_seconds)
        if rows_file is not None:
            with rows_file.open("ab") as file:
                file.write(msgspec.json.encode(row) + b"\n")
        said = f"{row.found_as}, {row.operations} operations" if row.is_found else "not found"
        typer.echo(f"{name}: {said} ({row.seconds:.1f} s + {row.shrinking_s:.1f} s)", err=True)
    rows = [known[name] for name in names if name in known]
    text = table(rows)
    typer.echo(text)
    if len(rows) < len(names):
        typer.echo(f"{len(names) - len(rows)} faults are left for another time", err=True)
        raise typer.Exit(1)
    if write_docs:
        written_into(DOCS_FILE, text)
    if sum(row.is_found for row in rows) < len(rows):
        raise typer.Exit(1)


def read_rows(file: Path) -> dict[str, Row]:
    """The rows in a file, by fault; none if there is no such file. Raises ``ConfigError``."""
    try:
        lines = file.read_bytes().splitlines()
        rows = [msgspec.json.decode(line, type=Row) for line in lines]
    except FileNotFoundError:
        return {}
    except msgspec.DecodeError as error:
        raise ConfigError(
            f"{file} has no rows of this table: {error}", hint="name another file"
        ) from error
    return {row.fault: row for row in rows}


def written_into(file: Path, text: str) -> None:
    """Put a table between its markers; ``ConfigError`` when the file has none."""
    before, begin, rest = file.read_text(encoding="utf-8").partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ConfigError(f"{file} has no place for the table", hint=f"put {BEGIN!r} into it")
    file.write_text(f"{before}{begin}\n\n{text}\n\n{end}{after}", encoding="utf-8")


if __name__ == "__main__":
    typer.run(main)
