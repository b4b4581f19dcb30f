"""The gauge `fwd_occupancy` in a scrape of `/metrics`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from prometheus_client.parser import text_string_to_metric_families
from scripted_kit_client.errors import CheckFailed

GAUGES: Final = ("sglang:fwd_occupancy", "scripted:fwd_occupancy")
"""SGLang's name for it, and that of the reference engine's own; the first that is there counts."""
TIMER_COUNTERS: Final = (
    "sglang:forward_execution_seconds",
    "sglang:forward_execution_seconds_total",
)
"""What SGLang counts only while its device timer is on."""
MOST_PERCENT: Final = 105.0
_TELLING_LABELS: Final = ("dp_rank", "pp_rank", "tp_rank", "moe_ep_rank")


@dataclass(frozen=True, kw_only=True)
class Scrape:
    """What one scrape says.

    Attributes:
        at_s: when, in seconds from the start of the measurement.
        gauge: the name under which occupancy is there; `None` when it is not.
        values: percent by rank, NaN where there is nothing to tell.
        has_timer_counter: whether SGLang's device timer has counted anything.
    """

    at_s: float
    gauge: str | None
    values: Mapping[str, float]
    has_timer_counter: bool

    @property
    def numbers(self) -> dict[str, float]:
        """The values that are numbers."""
        return {rank: value for rank, value in self.values.items() if not math.isnan(value)}


def parse_scrape(text: str, *, at_s: float) -> Scrape:
    """Read the text of `/metrics`; `CheckFailed` when it is no such text."""
    found: dict[str, dict[str, float]] = {}
    has_counter = False
    try:
        for family in text_string_to_metric_families(text):
            has_counter = has_counter or family.name in TIMER_COUNTERS
            if family.name in GAUGES:
                by_rank = found.setdefault(family.name, {})
                for sample in family.samples:
                    by_rank[_rank(sample.labels, by_rank)] = _percent(sample.name, sample.value)
    except (ValueError, IndexError, KeyError) as error:  # what the parser lets through
        raise CheckFailed(f"/metrics is no Prometheus text: {error}") from error
    gauge = next((name for name in GAUGES if name in found), None)
    return Scrape(
        at_s=at_s,
        gauge=gauge,
        values=found[gauge] if gauge is not None else {},
        has_timer_counter=has_counter,
    )


def _percent(name: str, value: float) -> float:
    """A share of time in percent, or NaN; a clock that is read late may say a little more than 100."""
    if math.isnan(value) or 0 <= value <= MOST_PERCENT:
        return float(value)
    raise CheckFailed(f"{name} is {value:g}, which is no share of time in percent")


def _rank(labels: Mapping[str, str], taken: Mapping[str, float]) -> str:
    """Which rank the labels are of, in a few words; two samples never have one name."""
    told = [f"{name}={labels[name]}" for name in _TELLING_LABELS if labels.get(name)]
    name = " ".join(told) or "all"
    if name in taken:
        name += " " + " ".join(f"{key}={value}" for key, value in sorted(labels.items()))
    return name
