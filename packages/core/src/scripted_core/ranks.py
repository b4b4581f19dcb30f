"""Ranks: what one scheduler process of an engine looks like beside the others.

With tensor or pipeline parallelism every rank has pools, rows and a prefix tree of its own, which have
to stay alike: each schedules by itself, from the same messages. Data-parallel replicas go their own way.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol, runtime_checkable

import msgspec
from scripted_registry import Violation

from scripted_core.ports import EnginePort
from scripted_core.views import QueueView


class RankView(msgspec.Struct, frozen=True):
    """One rank at an iteration boundary.

    ``rank`` names it by what there is several of, such as ``"tp1"`` or ``"pp0 tp1"``; it is empty where
    an engine has one rank only. ``step`` is the iteration of the script after which it looked like
    this: a later pipeline stage is seen as many iterations later as there are stages before it.
    ``stats`` are the figures of ``t.engine_stats()`` and ``held`` the pages that exhausters hold, by
    pool, both of this rank; ``held_rows`` are request rows.
    """

    rank: str
    step: int
    is_driver: bool
    stats: dict[str, int]
    held: dict[str, int]
    held_rows: int
    queues: QueueView
    is_paused: bool

    def differences(self, other: RankView) -> tuple[str, ...]:
        """What is not alike in two ranks that have to be, in words; empty when all is."""
        found = [
            f"{name} is {self.stats.get(name)} here and {other.stats.get(name)} on {other.rank}"
            for name in sorted({*self.stats, *other.stats})
            if self.stats.get(name) != other.stats.get(name)
        ]
        for what in ("held", "held_rows", "queues", "is_paused"):
            mine, theirs = getattr(self, what), getattr(other, what)
            if mine != theirs:
                found.append(f"{what} is {mine} here and {theirs} on {other.rank}")
        return tuple(found)


class RankReport(msgspec.Struct, frozen=True, tag=True):
    """What a rank tells the driver rank at each iteration boundary of a script.

    ``run`` is the script's number in its session. ``violations`` are of this rank's own audit, ``error``
    is of a memory operation that could not be applied there; both are empty when all is well.
    """

    pid: int
    run: int
    view: RankView
    violations: tuple[Violation, ...] = ()
    error: str = ""


@runtime_checkable
class RanksInOneProcess(Protocol):
    """What an adapter adds whose ranks are all in the driver's process: pipeline stages, replicas.

    An engine with a process for each rank has :class:`scripted_hook.ranks.RankedAdapter` instead, and
    one with a single rank neither.
    """

    def rank_views(self, step: int) -> Sequence[RankView]:
        """Every rank after iteration ``step``, the driver first."""
        ...


@runtime_checkable
class RanksAlike(Protocol):
    """What such an adapter adds whose ranks serve each request together, and so have to stay alike."""

    def rank_differences(self) -> Mapping[str, str]:
        """What is unlike the driver now, in words, by the name of the rank; empty when all is alike."""
        ...


def engine_figures(engine: EnginePort) -> dict[str, int]:
    """Pool figures of the moment, in pages and rows: what ``t.engine_stats()`` returns."""
    full = engine.kv_pools["full"]
    stats = {
        "kv_pool_free": full.available,
        "kv_pool_total": full.total,
        "kv_pool_evictable": full.evictable,
        "page_size": full.page_size,
    }
    if engine.rows is not None:
        stats["req_pool_free"] = engine.rows.available
        stats["req_pool_total"] = engine.rows.total
    if len(engine.kv_pools) > 1:
        for name, pool in engine.kv_pools.items():
            stats[f"kv_pool_{name}_free"] = pool.available
            stats[f"kv_pool_{name}_total"] = pool.total
            stats[f"kv_pool_{name}_evictable"] = pool.evictable
    return stats


def unseen(rank: str) -> RankView:
    """A rank that has not ended an iteration of the script yet."""
    return RankView(
        rank=rank,
        step=0,
        is_driver=False,
        stats={},
        held={},
        held_rows=0,
        queues=QueueView((), (), ()),
        is_paused=False,
    )


def view_of(engine: EnginePort, *, rank: str, step: int) -> RankView:
    """A rank as its own port shows it now."""
    return RankView(
        rank=rank,
        step=step,
        is_driver=engine.is_driver,
        stats=engine_figures(engine),
        held={name: pool.held for name, pool in engine.kv_pools.items()},
        held_rows=0 if engine.rows is None else engine.rows.held,
        queues=engine.queues(),
        is_paused=engine.is_paused,
    )
