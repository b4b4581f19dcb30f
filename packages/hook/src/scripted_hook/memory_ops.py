"""Memory operations as every rank applies them when they come out of its inbox."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from scripted_core.errors import ConfigError
from scripted_core.ops import Evict, Exhaust, MemoryOp, ReleaseHeld
from scripted_registry import get_plugin_manager

from scripted_hook.adapter import EngineAdapter


class MemoryOperations:
    """The exhausters of one rank, made on first use, and what they hold."""

    def __init__(self, adapter: EngineAdapter) -> None:
        self._adapter = adapter
        self._exhausters: dict[str, Any] = {}

    def apply(self, op: MemoryOp) -> None:
        """Apply one operation and declare what is held then."""
        match op:
            case Evict(prefix_tokens=prefix):
                tree = self._adapter.prefix_tree
                if tree is not None and tree.enabled:
                    tree.evict_prefix(prefix)
            case Exhaust(name=name, params=params):
                self._exhaust(name, params)
            case ReleaseHeld():
                for exhauster in self._exhausters.values():
                    exhauster.release()
                self._exhausters.clear()
        self._declare()

    def _exhaust(self, name: str, params: Mapping[str, Any]) -> None:
        exhauster = self._exhausters.get(name)
        if exhauster is None:
            exhauster = get_plugin_manager().exhauster(name).factory(self._adapter.scheduler)
        try:
            inspect.signature(exhauster.exhaust).bind(**params)
        except TypeError as error:
            raise ConfigError(
                f"exhauster {name!r} does not take {sorted(params)}: {error}",
                hint="see its package's README for its parameters",
            ) from error
        try:
            exhauster.exhaust(**params)
        except BaseException:
            if name not in self._exhausters:
                exhauster.release()  # nothing of a first, failed attempt stays held
            raise
        self._exhausters[name] = exhauster

    @property
    def holds_anything(self) -> bool:
        """Whether any exhauster has been used and not been released."""
        return bool(self._exhausters)

    def _declare(self) -> None:
        rows = self._adapter.rows
        self._adapter.declare_held(
            pages_by_pool={name: pool.held for name, pool in self._adapter.kv_pools.items()},
            rows=0 if rows is None else rows.held,
        )
