"""`python -m scripted_explore.fault_table`: how long exploration takes to find each seeded fault."""

from __future__ import annotations

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
    Area.SPECULATION: ("spec",),
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
    rows = []
    for name in names:
        row = measure(name, seed=seed, max_seconds=max_seconds)
        rows.append(row)
        said = f"{row.found_as}, {row.operations} operations" if row.is_found else "not found"
        typer.echo(f"{name}: {said} ({row.seconds:.1f} s + {row.shrinking_s:.1f} s)", err=True)
    text = table(rows)
    typer.echo(text)
    if write_docs:
        written_into(DOCS_FILE, text)
    if sum(row.is_found for row in rows) < len(rows):
        raise typer.Exit(1)


def written_into(file: Path, text: str) -> None:
    """Put a table between its markers; ``ConfigError`` when the file has none."""
    before, begin, rest = file.read_text(encoding="utf-8").partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ConfigError(f"{file} has no place for the table", hint=f"put {BEGIN!r} into it")
    file.write_text(f"{before}{begin}\n\n{text}\n\n{end}{after}", encoding="utf-8")


if __name__ == "__main__":
    typer.run(main)
