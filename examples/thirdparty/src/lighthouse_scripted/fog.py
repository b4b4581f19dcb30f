"""An exhauster of a stranger's."""

from __future__ import annotations

from typing import Any

from scripted_core.errors import ConfigError
from scripted_core.memory_ports import Hold, KvPool
from scripted_core.ports import port_of


class Fog:
    """Holds what is free of the pool ``full``; asked for more than there is, it holds nothing."""

    def __init__(self, scheduler: Any) -> None:
        self._pool: KvPool = port_of(scheduler).kv_pools["full"]
        self._held: list[Hold] = []

    def exhaust(self, *, leave_pages: int) -> None:
        """Hold free pages until ``leave_pages`` are left of them."""
        if leave_pages < 0:
            raise ConfigError(f"fog: leave_pages={leave_pages}", hint="0 or more")
        need = self._pool.available - leave_pages
        if need > 0:
            self._held.append(self._pool.hold(need))

    def release(self) -> None:
        """Let go of them."""
        while self._held:
            self._pool.release(self._held.pop())
