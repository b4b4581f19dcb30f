"""From scrapes to one figure: values of each rank, across ranks, and their median."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from scripted_kit_occupancy.scrape import Scrape


class Across(StrEnum):
    """Which of several ranks' values a scrape stands for."""

    MAX = "max"
    """The busiest rank, as SGLang's own test has it."""
    MIN = "min"
    """The idlest rank that has work: one rank that falls behind shows."""


@dataclass(frozen=True, kw_only=True)
class Summary:
    """Percent of time in forwards, over `count` scrapes; NaN for none."""

    count: int
    median: float
    p10: float
    least: float
    peak: float


def summary_of(values: Sequence[float]) -> Summary:
    """The figures of some values."""
    ordered = sorted(values)
    if not ordered:
        nan = float("nan")
        return Summary(count=0, median=nan, p10=nan, least=nan, peak=nan)
    return Summary(
        count=len(ordered),
        median=statistics.median(ordered),
        p10=ordered[len(ordered) // 10],
        least=ordered[0],
        peak=ordered[-1],
    )


def by_rank(scrapes: Sequence[Scrape]) -> dict[str, tuple[tuple[float, float], ...]]:
    """The (seconds, percent) of each rank, without what is not a number."""
    ranks = sorted({rank for scrape in scrapes for rank in scrape.numbers})
    return {
        rank: tuple(
            (scrape.at_s, scrape.numbers[rank]) for scrape in scrapes if rank in scrape.numbers
        )
        for rank in ranks
    }


def across_ranks(scrapes: Sequence[Scrape], across: Across) -> list[float]:
    """One value for each scrape that has any."""
    choose = max if across is Across.MAX else min
    return [choose(scrape.numbers.values()) for scrape in scrapes if scrape.numbers]


def fresh(scrapes: Sequence[Scrape], before: Scrape) -> tuple[Scrape, ...]:
    """The scrapes from the first on that says something else than `before`.

    What a gauge shows first is still of the request before.
    """
    for i, scrape in enumerate(scrapes):
        if scrape.numbers and scrape.numbers != before.numbers:
            return tuple(scrapes[i:])
    return () if before.numbers else tuple(scrapes)
