"""Taking a KV pool down to a chosen number of pages."""

from __future__ import annotations

from typing import Any, Literal

from scripted_core.errors import ConfigError, ExhaustError
from scripted_core.memory_ports import Hold, KvPool
from scripted_core.ports import port_of
from scripted_core.requests import require_int


class ScriptedKvPoolExhauster:
    """Holds pages of a KV pool so that requests run out of them.

    ``scheduler`` is the engine's own scheduler, inside the process where a hook is attached to it.
    """

    def __init__(self, scheduler: Any) -> None:
        self._port = port_of(scheduler)
        self._held: list[tuple[KvPool, Hold]] = []

    def exhaust(
        self,
        *,
        leave_pages: int,
        pool: str = "full",
        evictable: Literal["count", "evict"] = "count",
    ) -> None:
        """Hold pages until a request can get only ``leave_pages`` more.

        A request can also get what the prefix tree would evict, so those pages count as left.
        ``evictable="evict"`` empties the tree first, and what is left is then on the free list.
        With ``"count"`` the tree is only evicted as far as it holds more than ``leave_pages``.
        ``pool`` stands for the pool of that name and, where an engine has replicas, for those of
        the same kind in each (``name@rank``): ``leave_pages`` are left in each. All or none of them
        are held. The two engines of a prefill/decode pair are no replicas: each pool goes by its name.
        Raises ``ExhaustError`` when fewer than ``leave_pages`` are left already.
        """
        require_int("exhaust_kv", "leave_pages", leave_pages, at_least=0)
        pools = self._port.kv_pools
        if pool not in pools:
            raise ConfigError(
                f"exhaust_kv: engine {self._port.name!r} has no KV pool {pool!r}",
                hint=f"its pools: {', '.join(sorted(pools))}",
            )
        held_before = len(self._held)
        try:
            for name in pools:
                kind, _, rank = name.partition("@")
                if name == pool or (kind == pool and rank.isdigit()):
                    self._exhaust_one(pools[name], leave_pages=leave_pages, evictable=evictable)
        except BaseException:
            self._release_down_to(held_before)
            raise

    def _exhaust_one(
        self, found: KvPool, *, leave_pages: int, evictable: Literal["count", "evict"]
    ) -> None:
        pool = found.name
        tree = self._port.prefix_tree
        if evictable == "evict" and tree is not None and tree.enabled:
            tree.evict(found.evictable, pool=pool)
        reachable = found.available + found.evictable
        need = reachable - leave_pages
        if need < 0:
            raise ExhaustError(
                f"exhaust_kv: leave_pages={leave_pages} is more than the {reachable} pages that "
                f"pool {pool!r} has left",
                hint=f"leave_pages goes from 0 to {reachable} here",
            )
        if need > found.available and tree is not None:
            tree.evict(need - found.available, pool=pool)
        if need > found.available:
            raise ExhaustError(
                f"exhaust_kv: {need} pages of pool {pool!r} have to be held, and only "
                f"{found.available} came free; the prefix tree did not give up what it promised",
                hint="a node may be locked: wait until the requests that use it have ended",
            )
        if need:
            self._held.append((found, found.hold(need)))

    def release(self) -> None:
        """Give every page back; may be called twice."""
        self._release_down_to(0)

    def _release_down_to(self, count: int) -> None:
        while len(self._held) > count:
            pool, hold = self._held.pop()
            pool.release(hold)
