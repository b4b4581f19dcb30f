"""The figures of ``hatch run canary-figures``: measured, and as Markdown and JSON."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress, TimeElapsedColumn
from scripted_canary.perturb import PerturbKind
from scripted_canary.settings import RealData

from bench.canary_campaign import TOPOLOGIES, Campaign, Tick, run_campaign, run_clean, run_cost
from bench.canary_load import Fate

_ASKED_US: Final = 100
_COSTS: Final = (("hash", 8, 48), ("hash", 8, 240), ("tiny", 8, 48), ("tiny", 8, 240))
"""The model, how many requests decode, and tokens of each prompt."""
_NAMES: Final[dict[PerturbKind, str]] = {
    PerturbKind.USED_SLOT: "bytes of a slot in use flipped",
    PerturbKind.SWAP_ROWS: "two rows swapped",
    PerturbKind.SWAP_NEXT_TOKEN: "the next token swapped",
    PerturbKind.AFTER_FORWARD: "a slot flipped behind the forward that wrote it",
    PerturbKind.CACHED_ORPHAN: "a cached orphan flipped, a sweep every 8 forwards",
}


@dataclass(frozen=True)
class CostRow:
    """Medians of processor time, in µs, of decode steps under one setting."""

    model: str
    work: str
    real_data: str
    step_alone: float
    step: float
    canary: float
    for_512: float
    quartiles: tuple[float, float]


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """How much is measured: perturbations of each kind, slots, decode steps."""

    perturbations: int
    clean_slots: int
    cost_steps: int


@dataclass(frozen=True)
class Figures:
    """What was measured."""

    campaigns: Sequence[Campaign]
    clean: dict[str, tuple[int, int]]
    costs: Sequence[CostRow]

    @property
    def missed(self) -> int:
        """Broken slots that were read, or swept over, and not reported."""
        return sum(one.fates[Fate.MISSED] for one in self.campaigns)

    @property
    def alarms(self) -> int:
        """Reports of what nothing was done to."""
        return sum(one.false_alarms for one in self.campaigns) + sum(
            alarms for _, alarms in self.clean.values()
        )

    def print(self) -> None:
        """Print Markdown."""
        _print(self.campaigns, self.clean, self.costs)

    def write(self, path: Path) -> None:
        """Write JSON."""
        plain = _plain(self.campaigns, self.clean, self.costs)
        path.write_text(json.dumps(plain, indent=1) + "\n", encoding="utf-8")


def measure(
    sizes: Sizes, *, kinds: Sequence[PerturbKind], model: str, real_data: RealData, seed: int
) -> Figures:
    """Measure everything, saying how far it is."""
    campaigns = []
    for kind in kinds if sizes.perturbations else ():
        with _progress(_NAMES[kind], sizes.perturbations) as tick:
            campaigns.append(
                run_campaign(
                    kind,
                    sizes.perturbations,
                    seed=seed,
                    model=model,
                    real_data=real_data,
                    tick=tick,
                )
            )
    costs = _costs(sizes.cost_steps) if sizes.cost_steps else []
    return Figures(campaigns, _clean(sizes.clean_slots, seed), costs)


def _clean(slots: int, seed: int) -> dict[str, tuple[int, int]]:
    if not slots:
        return {}
    found = {}
    share = -(-slots // len(TOPOLOGIES))
    with _progress("clean slots", slots) as tick:
        for name, topology in TOPOLOGIES.items():
            found[name] = run_clean(share, seed=seed, topology=topology, tick=tick)
    return found


def _costs(steps: int) -> list[CostRow]:
    rows = []
    with _progress("cost of a step", len(_COSTS) * len(RealData)) as tick:
        for model, requests, prompt_len in _COSTS:
            work = f"{requests} requests of {prompt_len} to {prompt_len + steps} tokens"
            size: dict[str, Any] = {
                "steps": steps,
                "requests": requests,
                "prompt_len": prompt_len,
                "model": model,
            }
            alone = statistics.median(run_cost(canary={}, **size).step_us)
            for real_data in RealData:
                canary = {"kv_canary": "log", "kv_canary_real_data": real_data.value}
                cost = run_cost(canary=canary, **size)
                low, _, high = statistics.quantiles(cost.per_512_us, n=4)
                rows.append(
                    CostRow(
                        model,
                        work,
                        real_data.value,
                        alone,
                        statistics.median(cost.step_us),
                        statistics.median(cost.per_step_us),
                        statistics.median(cost.per_512_us),
                        (low, high),
                    )
                )
                tick(1)
    return rows


@contextmanager
def _progress(name: str, total: int) -> Iterator[Tick]:
    console = Console(stderr=True)
    columns = (*Progress.get_default_columns(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        if not console.is_terminal:
            console.print(f"{name}: {total:,}", markup=False, highlight=False)
        task = progress.add_task(name, total=total)
        yield lambda done: progress.advance(task, done)


def _print(
    campaigns: Sequence[Campaign], clean: dict[str, tuple[int, int]], costs: Sequence[CostRow]
) -> None:
    if campaigns:
        print(
            "| kind | found | by a forward, by a sweep | after forwards | missed "
            "| apart: written again, given back, both unread |\n|---|---:|---:|---|---:|---:|"
        )
    for one in campaigns:
        fates, found_by = one.fates, one.found_by
        print(
            f"| {_NAMES[one.kind]} | {fates[Fate.FOUND]:,} "
            f"| {found_by['forward']:,}, {found_by['sweep']:,} | {_latency(one.steps)} "
            f"| {fates[Fate.MISSED]:,} | {fates[Fate.REWRITTEN]:,}, {fates[Fate.FREED]:,} |"
        )
    for one in campaigns:
        if seeds := [str(seed) for seed, fate in one.lost.items() if fate is Fate.MISSED]:
            print(f"\n{_NAMES[one.kind]}: missed with seeds {', '.join(seeds)}.")
    if campaigns:
        slots = sum(one.verified_slots for one in campaigns)
        alarms = sum(one.false_alarms for one in campaigns)
        print(f"\nFalse alarms meanwhile: {alarms}, with {slots:,} slots verified.")
    if clean:
        print("\n| clean, hash model | slots verified | alarms |\n|---|---:|---:|")
        for name, (slots, alarms) in clean.items():
            print(f"| {name} | {slots:,} | {alarms} |")
        total, alarms = (sum(each[index] for each in clean.values()) for index in (0, 1))
        print(f"| all | {total:,} | {alarms} |")
    if costs:
        print(
            "\n| model | decoding | real data | step alone, µs | with the canary, µs | the canary, µs "
            f"| for 512 slots, µs (quartiles; asked: {_ASKED_US}) |\n|---|---|---|---:|---:|---:|---:|"
        )
        for row in costs:
            print(
                f"| `{row.model}` | {row.work} | `{row.real_data}` | {row.step_alone:.0f} "
                f"| {row.step:.0f} | {row.canary:.0f} "
                f"| {row.for_512:.0f} ({row.quartiles[0]:.0f} to {row.quartiles[1]:.0f}) |"
            )


def _latency(steps: Sequence[int]) -> str:
    if not steps or max(steps) == 0:
        return "0"
    return f"{min(steps)} to {max(steps)}, {statistics.median(steps):g} in the median"


def _plain(
    campaigns: Sequence[Campaign], clean: dict[str, tuple[int, int]], costs: Sequence[CostRow]
) -> dict[str, Any]:
    return {
        "perturbations": [
            {
                "kind": one.kind.value,
                "fates": {fate.value: one.fates[fate] for fate in Fate},
                "found_by": dict(one.found_by),
                "steps": one.steps,
                "lost": {str(seed): fate.value for seed, fate in one.lost.items()},
                "false_alarms": one.false_alarms,
                "verified_slots": one.verified_slots,
            }
            for one in campaigns
        ],
        "clean": {name: {"slots": s, "alarms": a} for name, (s, a) in clean.items()},
        "costs": [vars(row) for row in costs],
    }
