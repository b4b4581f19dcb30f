"""One row of the benchmark: its samples, its target, and whether it was met; as table and as JSON."""

from __future__ import annotations

import json
import operator
import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path

from rich.console import Console
from rich.table import Table


class Bound(StrEnum):
    """On which side of its target a median has to be."""

    AT_LEAST = ">="
    AT_MOST = "<="


_HOLDS: dict[Bound, Callable[[float, float], bool]] = {
    Bound.AT_LEAST: operator.ge,
    Bound.AT_MOST: operator.le,
}


@dataclass(frozen=True)
class Target:
    """What a median has to reach, in the unit of its row."""

    bound: Bound
    value: float

    def __str__(self) -> str:
        return f"{self.bound} {self.value:g}"


def at_least(value: float) -> Target:
    """A median of ``value`` or more."""
    return Target(Bound.AT_LEAST, value)


def at_most(value: float) -> Target:
    """A median of ``value`` or less."""
    return Target(Bound.AT_MOST, value)


@dataclass(frozen=True)
class Result:
    """A measured row. ``target`` and ``met`` are ``None`` in a row that is there for information."""

    name: str
    median: float
    spread: float
    unit: str
    target: str | None
    met: bool | None


def summarize(name: str, samples: Sequence[float], unit: str, target: Target | None) -> Result:
    """Median and spread of ``samples``; the spread is the distance between the quartiles."""
    return _row(name, statistics.median(samples), _between_quartiles(samples), unit, target)


def compare(name: str, ours: Sequence[float], theirs: Sequence[float], at: float | None) -> Result:
    """The median of ``ours`` as a fraction of that of ``theirs``, which has to be at most ``at``.

    The spread follows from both spreads, taken as independent.
    """
    mine, other = statistics.median(ours), statistics.median(theirs)
    relative = (_between_quartiles(ours) / mine) ** 2 + (_between_quartiles(theirs) / other) ** 2
    ratio = mine / other
    return _row(name, ratio, ratio * relative**0.5, "ratio", None if at is None else at_most(at))


def _row(name: str, median: float, spread: float, unit: str, target: Target | None) -> Result:
    return Result(
        name=name,
        median=median,
        spread=spread,
        unit=unit,
        target=None if target is None else str(target),
        met=None if target is None else _HOLDS[target.bound](median, target.value),
    )


def _between_quartiles(samples: Sequence[float]) -> float:
    if len(samples) < 2:
        return 0.0
    low, _, high = statistics.quantiles(samples, n=4, method="inclusive")
    return high - low


def write_json(results: Iterable[Result], path: Path) -> None:
    """Write one object for each row."""
    rows = [asdict(result) for result in results]
    path.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


def print_table(results: Iterable[Result], console: Console) -> None:
    """Print the rows."""
    table = Table("name", title="medians; spread is the distance between the quartiles")
    for heading in ("median", "spread"):
        table.add_column(heading, justify="right")
    for heading in ("unit", "target", "met"):
        table.add_column(heading)
    for result in results:
        table.add_row(
            result.name,
            f"{result.median:,.3g}" if result.median < 1000 else f"{result.median:,.0f}",
            f"{result.spread:,.2g}" if result.spread < 1000 else f"{result.spread:,.0f}",
            result.unit,
            result.target or "",
            {None: "", True: "[green]yes[/]", False: "[bold red]no[/]"}[result.met],
        )
    console.print(table)
