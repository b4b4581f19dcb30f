"""Rules `pool` and `window`: at rest all memory is back, and a window takes no more than it needs."""

from __future__ import annotations

from scripted_explore.world import Rule


class PoolRule(Rule):
    """What is neither free nor evictable at rest is lost."""

    def after(self) -> None:
        """Window slots: at most a window, what is computed at once, and what does not fill a page."""
        world = self.world
        window = world.facts.window_tokens
        pool = world.t.engine.kv_pools.get("swa")
        if window is None or pool is None or world.locked:
            return
        used = pool.total - pool.available - pool.evictable - pool.held
        running = len(world.live)
        each = window + 2 * world.facts.chunk_tokens + 3 * pool.page_size
        if used * pool.page_size > running * each + world.facts.chunk_tokens:
            world.broken(
                "window",
                f"{used} pages of windows are in use by {running} requests of {each} tokens",
            )

    def at_rest(self) -> None:
        """Pages and rows."""
        engine = self.world.t.engine
        for name, pool in engine.kv_pools.items():
            there = pool.available + pool.evictable
            if there != pool.total or pool.held:
                self.world.broken(
                    "pool",
                    f"at rest pool {name!r} has {there} of {pool.total} pages, {pool.held} held",
                )
        rows = engine.rows
        if rows is not None and rows.available != rows.total:
            self.world.broken("pool", f"at rest {rows.available} of {rows.total} rows are free")
