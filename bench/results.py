"""One row of the benchmark: its samples, its target, and whether it was met; as table and as JSON."""

from __future__ import annotations

import json
import math
import operator
import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
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
    """A measured row. ``target`` and ``met`` are ``None`` in a row that is there for information.

    ``interval`` is one of 95 % confidence for the median, where it was asked for. A row without a result
    has no median, and a ``remark`` that says why.
    """

    name: str
    median: float | None
    spread: float | None
    unit: str
    target: str | None
    met: bool | None
    remark: str | None = None
    interval: tuple[float, float] | None = None


def summarize(name: str, samples: Sequence[float], unit: str, target: Target | None) -> Result:
    """Median and spread of ``samples``; the spread is the distance between the quartiles."""
    return _row(name, statistics.median(samples), _between_quartiles(samples), unit, target)


def with_interval(name: str, samples: Sequence[float], unit: str, target: Target | None) -> Result:
    """The same with an interval of confidence for the median."""
    return replace(summarize(name, samples, unit, target), interval=median_interval(samples))


def median_interval(
    samples: Sequence[float], *, confidence: float = 0.95
) -> tuple[float, float] | None:
    """An interval that holds the median of what ``samples`` were drawn from; ``None`` for too few.

    Of order statistics (the sign test turned round): each sample is below the median with probability
    1/2, so how many are is binomial, whatever the distribution. The confidence is at least what was
    asked for; fewer than 6 samples cannot reach 95 %.
    """
    values, count = sorted(samples), len(samples)
    outside = (1 - confidence) / 2
    # The largest number of samples that can be cut off at each end.
    cut, below = -1, 0.0
    while cut + 1 < count:
        below += math.comb(count, cut + 1) / 2**count
        if below > outside:
            break
        cut += 1
    return None if cut < 0 else (values[cut], values[count - 1 - cut])


def no_result(name: str, why: str) -> Result:
    """A row that could not be measured, and why."""
    return Result(name, None, None, "", None, None, remark=why)


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
    for heading in ("median", "spread", "95 %"):
        table.add_column(heading, justify="right")
    for heading in ("unit", "target", "met"):
        table.add_column(heading)
    remarks = []
    for result in results:
        table.add_row(
            result.name,
            "no result" if result.median is None else _figure(result.median, digits=3),
            "" if result.spread is None else _figure(result.spread, digits=2),
            "" if result.interval is None else _between(result.interval),
            result.unit,
            result.target or "",
            {None: "", True: "[green]yes[/]", False: "[bold red]no[/]"}[result.met],
        )
        if result.remark is not None:
            remarks.append(f"{result.name}: {result.remark}")
    console.print(table)
    for remark in remarks:
        console.print(remark, markup=False, soft_wrap=True)


def _figure(value: float, *, digits: int) -> str:
    return f"{value:,.{digits}g}" if value < 1000 else f"{value:,.0f}"


def _between(interval: tuple[float, float]) -> str:
    return " to ".join(_figure(end, digits=4) for end in interval)
