"""What the prefill engine of a pair of servers looks like at an iteration boundary."""

from __future__ import annotations

from typing import Final

import msgspec
from scripted_core.memory_ports import KvPool
from scripted_core.views import PdStage, QueueView, RequestView

PREFILL_SUFFIX: Final = "@prefill"
"""Behind the name of each of its KV pools, where the decode engine's have the plain names."""


class PoolFigures(msgspec.Struct, frozen=True):
    """Pages of one KV pool."""

    total: int
    available: int
    evictable: int
    held: int
    page_size: int


class SideView(msgspec.Struct, frozen=True):
    """The engine at one iteration boundary.

    ``stages`` says how far each of its live requests is: queued, prefilling or transferring. ``sent``
    counts what it has sent to the other engine from its start, where it counts that.
    """

    queues: QueueView = QueueView((), (), ())
    requests: tuple[RequestView, ...] = ()
    stages: dict[str, PdStage] = {}
    pools: dict[str, PoolFigures] = {}
    is_paused: bool = False
    is_idle: bool = True
    is_fully_idle: bool = True
    sent: int = 0

    def request(self, rid: str) -> RequestView | None:
        """Its view of one live request."""
        return next((view for view in self.requests if view.rid == rid), None)


def figures_of(pool: KvPool) -> PoolFigures:
    """The figures of a pool now."""
    return PoolFigures(
        total=pool.total,
        available=pool.available,
        evictable=pool.evictable,
        held=pool.held,
        page_size=pool.page_size,
    )
