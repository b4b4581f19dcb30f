"""SGLang's KV for somebody who watches it: ``scripted_core.kv_watch.KvWatchPort``.

Each rank of a tensor parallel group has its own part of the KV, and its own watcher. The arguments of
the canary are read from a variable, see ``kv_settings``.
"""

from __future__ import annotations

import functools
import json
import operator
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import numpy as np
from scripted_core.kv_watch import CachedSlots, KvBatch, KvGroup, KvStorageView, KvWatcher

from scripted_sglang import _compat
from scripted_sglang.adapter import SglangAdapter
from scripted_sglang.environment import ENV_KV_CANARY

_FULL: Final = "full"
_GONE: Final = -2
"""Stands where the position before has no slot any more."""


def can_be_watched(scheduler: Any, *, version: str) -> bool:
    """Whether all KV of a scheduler is in one pool of keys and values that is reachable from here."""
    return (
        _compat.gives_batches_to_its_model(version)
        and _compat.placement(scheduler).keys() <= {"tp"}
        and _compat.is_plain(scheduler)
        and _compat.kv_buffers(scheduler) is not None
    )


class WatchedAdapter(SglangAdapter):
    """The adapter of a scheduler whose KV can be watched."""

    kv_watcher: KvWatcher | None = None
    _last_requests: tuple[Any, ...] = ()

    @functools.cached_property
    def _pool(self) -> str:
        rank, _ = _compat.placement(self.scheduler).get("tp", (0, 1))
        return f"{_FULL}@tp{rank}" if rank else _FULL

    # -- KvWatchPort ---------------------------------------------------------------------------

    def kv_watch_settings(self) -> Mapping[str, Any]:
        """What the server was started with."""
        settings: dict[str, Any] = json.loads(os.environ.get(ENV_KV_CANARY) or "{}")
        return {"kv_canary": "none", **settings}

    def kv_groups(self) -> Sequence[KvGroup]:
        """The one pool: ``full``, and ``full@tp1`` of another rank."""
        buffers = _compat.kv_buffers(self.scheduler)
        assert buffers is not None, "only such a scheduler has this adapter"
        table = self.scheduler.req_to_token_pool.req_to_token
        storage = KvStorageView(name=self._pool, buffers=buffers)
        return (KvGroup(name=self._pool, table=table, storages=(storage,)),)

    def watch_kv(self, watcher: KvWatcher | None) -> None:
        """Tell ``watcher`` of every forward from now on."""
        self.kv_watcher = watcher

    def cached_slots(self, storage: str) -> CachedSlots | None:
        """What the prefix tree holds; ``None`` also of a tree whose nodes do not show their slots."""
        return None if storage != self._pool else _cached(self.scheduler.tree_cache)

    def forwards_total(self, group: str) -> int:
        """SGLang's own count."""
        return _compat.forwards_of(self.scheduler)

    # -- the hook ------------------------------------------------------------------------------

    def run_forward(self, forward: Callable[[], Any], batch: Any) -> Any:
        """Run the model on a batch, and tell the watcher before and after."""
        watcher = self.kv_watcher
        told = None if watcher is None else self._describe(batch)
        if watcher is None or told is None:
            return forward()
        watcher.before_forward(self._pool, told)
        batch.input_ids = told.input_ids  # another one where somebody perturbs
        result = forward()
        watcher.after_forward(self._pool, told, result.next_token_ids)
        return result

    def _describe(self, batch: Any) -> KvBatch | None:
        prepared = _compat.prepared(batch)
        if prepared is None:
            return None
        # SGLang may change its list in place, and whoever is told goes by the object.
        reqs, last = tuple(batch.reqs), self._last_requests
        if len(reqs) == len(last) and all(map(operator.is_, reqs, last)):
            reqs = last
        self._last_requests = reqs
        return KvBatch(
            requests=reqs,
            rids=lambda: [req.rid for req in reqs],
            rows=prepared.rows,
            starts=prepared.starts,
            longest=prepared.longest,
            counts=prepared.counts,
            input_ids=batch.input_ids,
            out_slots=batch.out_cache_loc,
            tokens_of=lambda index, start, end: _compat.tokens_of(reqs[index], start, end),
            next_known=True,
        )


def _cached(tree: Any) -> CachedSlots | None:
    if tree.disable or _compat.is_rust(tree):
        return None
    root = _compat.tree_root(tree)
    last: dict[int, tuple[int, int]] = {_compat.identity_of(root): (-1, 0)}
    slots: list[Any] = [np.empty(0, dtype=np.int64)]
    positions, previous = list(slots), list(slots)
    tokens: list[int] = []
    for node in _compat.tree_nodes(tree):
        before, depth = last[_compat.identity_of(node.parent)]
        key, value = _compat.node_token_ids(node), _compat.node_slots(node)
        end = depth + len(key)
        if value is None:
            last[_compat.identity_of(node)] = (_GONE, end)
            continue
        begin = len(tokens)
        chain = np.arange(begin - 1, begin - 1 + len(key))
        chain[0] = before
        slots.append(value)
        tokens.extend(key)
        positions.append(np.arange(depth, end))
        previous.append(chain)
        last[_compat.identity_of(node)] = (begin + len(key) - 1, end)
    return CachedSlots(
        slots=np.concatenate(slots),
        tokens=np.array(tokens, dtype=np.int64),
        positions=np.concatenate(positions),
        previous=np.concatenate(previous),
    )
