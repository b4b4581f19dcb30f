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

    ``others`` are all others, each with the number of pipeline stages before it. ``independent`` are
    those of them that serve other requests: data-parallel replicas.
    """

    name: str
    others: Mapping[str, int]
    independent: frozenset[str]
    replica: int
    replicas: int
    stages: int

    @classmethod
    def of(cls, scheduler: Any) -> RankPlace:
        """Where a scheduler is; its process groups have to be there already."""
        placement = _compat.placement(scheduler)
        mine = {level: rank for level, (rank, _) in placement.items()}
        others: dict[str, int] = {}
        independent = set()
        for ranks in itertools.product(*(range(size) for _, size in placement.values())):
            there = dict(zip(placement, ranks, strict=True))
            if there != mine:
                others[_named(there)] = there.get("pp", 0)
            if there.get("dp") != mine.get("dp"):
                independent.add(_named(there))
        replica, replicas = placement.get("dp", (0, 1))
        return cls(
            name=_named(mine),
            others=others,
            independent=frozenset(independent),
            replica=replica,
            replicas=replicas,
            stages=placement.get("pp", (0, 1))[1],
        )


def _named(ranks: Mapping[str, int]) -> str:
    return " ".join(f"{level}{ranks[level]}" for level in _LEVELS if level in ranks)
