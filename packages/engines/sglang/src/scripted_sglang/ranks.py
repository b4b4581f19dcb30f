"""The ranks of an SGLang server: which one this process is, and who the others are."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from scripted_sglang import _compat

_LEVELS = ("dp", "pp", "tp")


@dataclass(frozen=True)
class RankPlace:
    """``name`` is such as ``"pp1 tp0"``, of what there is more than one.

    ``others`` are the ranks that take up the same messages: those of the same replica, each with the
    number of pipeline stages before it.
    """

    name: str
    others: Mapping[str, int]
    replica: int
    stages: int

    @classmethod
    def of(cls, scheduler: Any) -> RankPlace:
        """Where a scheduler is; its process groups have to be there already."""
        placement = _compat.placement(scheduler)
        mine = {level: rank for level, (rank, _) in placement.items()}
        together = [level for level in _LEVELS if level in placement and level != "dp"]
        others = {}
        for ranks in itertools.product(*(range(placement[level][1]) for level in together)):
            there = {**mine, **dict(zip(together, ranks, strict=True))}
            if there != mine:
                others[_named(there)] = there.get("pp", 0)
        return cls(
            name=_named(mine),
            others=others,
            replica=mine.get("dp", 0),
            stages=placement.get("pp", (0, 1))[1],
        )


def _named(ranks: Mapping[str, int]) -> str:
    return " ".join(f"{level}{ranks[level]}" for level in _LEVELS if level in ranks)
