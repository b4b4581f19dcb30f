"""The engine's KV for somebody who watches it: ``scripted_core.kv_watch.KvWatchPort``.

A scheduler calls its `SchedulerKvWatch` around each forward when there is one, and costs nothing when
there is none. A draft model has a group of its own: its KV is in slots of the same numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, TypeVar

import numpy as np
from scripted_core.kv_watch import (
    CachedSlots,
    KvBatch,
    KvGroup,
    KvStorageView,
    KvWatcher,
    SentSlots,
)
from scripted_hook.plugin_calls import announce_engine

from scripted_reference.args import TINY_MODEL
from scripted_reference.argument_checks import wrong_argument
from scripted_reference.memory import IntArray
from scripted_reference.models.base import BatchResult, KvStorage, Model
from scripted_reference.pools import window_pool_name
from scripted_reference.pp.scheduler import PipelineScheduler
from scripted_reference.request import Req
from scripted_reference.schedule_batch import ScheduleBatch
from scripted_reference.speculation.model import SpeculativeModel, VerifyingModel
from scripted_reference.tree_node import TreeNode

if TYPE_CHECKING:
    from scripted_reference.engine import Engine
    from scripted_reference.scheduler import Scheduler

Result = TypeVar("Result")
DRAFT_POOL: Final = "draft"
_NO_ENTRY: Final = -2
"""Stands where the position before has no slot in a pool, so that nothing can be said of its chain."""


class GroupWatch:
    """Tells a watcher of the forwards of one model."""

    def __init__(self, group: str, watcher: KvWatcher, *, next_known: bool) -> None:
        self.group = group
        self.watcher = watcher
        self._next_known = next_known

    def run(self, forward: Callable[[ScheduleBatch], Result], batch: ScheduleBatch) -> Result:
        """Run a model on a prepared batch."""
        return self.run_as(self.describe(batch), batch, lambda: forward(batch))

    def run_as(self, told: KvBatch, batch: ScheduleBatch, forward: Callable[[], Result]) -> Result:
        """Run a model on a batch that is described as `told`."""
        self.watcher.before_forward(self.group, told)
        batch.input_ids = told.input_ids
        result = forward()
        chosen = result.next_token_ids if isinstance(result, BatchResult) else None
        self.watcher.after_forward(self.group, told, chosen)
        return result

    def take(self, slots: IntArray) -> Any:
        """The KV of these slots is copied out: return what is known of them."""
        return self.watcher.take(self.group, slots)

    def put(self, slots: IntArray, taken: Any) -> None:
        """KV was copied into these slots."""
        self.watcher.put(self.group, slots, taken)

    def send(self, slots: IntArray) -> SentSlots:
        """The KV of these slots goes to another process: return what is known of them."""
        return self.watcher.send(self.group, slots)

    def receive(self, slots: IntArray, sent: SentSlots | None) -> None:
        """KV came from another process into these slots; `ConfigError` for what does not fit."""
        self.watcher.receive(self.group, slots, sent)

    def describe(self, batch: ScheduleBatch, counts: Sequence[int] | None = None) -> KvBatch:
        """Return a batch in neutral words; `counts` are new tokens of each request of a verification."""
        starts = batch.seq_lens - 1
        longest = batch.max_seq_len - 1
        if batch.forward_mode.is_extend():
            counts = batch.extend_lens
            starts = np.array(batch.prefix_lens, dtype=np.int64)
            longest = max(batch.prefix_lens)
        reqs = batch.reqs
        return KvBatch(
            requests=reqs,
            rids=lambda: [req.rid for req in reqs],
            rows=batch.rows,
            starts=starts,
            longest=longest,
            counts=counts,
            input_ids=batch.input_ids,
            out_slots=batch.out_cache_loc,
            tokens_of=lambda index, start, end: _tokens(reqs[index], start, end),
            next_known=self._next_known,
        )


class EngineKvWatch:
    """All pools of the engine in this process."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._schedulers = dict(_by_name(engine))
        # Their models as they were made: whoever measures wraps them later.
        self._models: dict[str, Model] = {n: s.model for n, s in self._schedulers.items()}
        self.kv_watcher: KvWatcher | None = None
        self._unasked = "none"

    def announce(self, port: object | None = None, *, runs_scripts_only: bool = False) -> None:
        """Tell plugins of the engine as `port`: one puts a canary in if the arguments ask for it.

        Where nothing but scripts runs, the model `tiny` has one unless the arguments say otherwise.
        `hash` needs none: what it chooses is a hash of what its slots hold.

        Raises `ConfigError` when they do and none has: nothing would be watched, and nobody would know.
        """
        if runs_scripts_only and self._engine.server_args.model_path == TINY_MODEL:
            self._unasked = "raise"
        announce_engine(self if port is None else port)
        mode = self._engine.server_args.kv_canary
        if mode not in (None, "none") and self.kv_watcher is None:
            raise wrong_argument(
                "kv_canary",
                mode,
                "asks for a canary, and no plugin has put one in",
                "pip install 'scripted-canary[torch]', and leave it out of SCRIPTED_DISABLE_PLUGINS",
            )

    def kv_watch_settings(self) -> Mapping[str, Any]:
        """What the engine arguments say."""
        args = self._engine.server_args
        return {
            "kv_canary": args.kv_canary or self._unasked,
            "kv_canary_real_data": args.kv_canary_real_data,
            "kv_canary_sweep_interval": args.kv_canary_sweep_interval,
        }

    def kv_groups(self) -> Sequence[KvGroup]:
        """The pools of every scheduler, and those of its draft model."""
        groups: list[KvGroup] = []
        for name, scheduler in self._schedulers.items():
            table = scheduler.req_to_token_pool.req_to_token
            model = self._models[name]
            storages = _storages(scheduler, model.kv, name=name)
            groups.append(KvGroup(name=name, table=table, storages=storages))
            if isinstance(model, SpeculativeModel):
                of_draft = draft_pool_name(name)
                buffers = tuple(model.draft.kv.buffers(in_window=False))
                view = KvStorageView(name=of_draft, buffers=buffers)
                groups.append(KvGroup(name=of_draft, table=table, storages=(view,)))
        return groups

    def watch_kv(self, watcher: KvWatcher | None) -> None:
        """Tell `watcher` of every forward and copy from now on."""
        self.kv_watcher = watcher
        for name, scheduler in self._schedulers.items():
            model = self._models[name]
            if isinstance(model, VerifyingModel):
                # What a verification chose is not known before its guesses were compared.
                model.kv_watch = (
                    None if watcher is None else GroupWatch(name, watcher, next_known=False)
                )
                if isinstance(model, SpeculativeModel):
                    of_draft = draft_pool_name(name)
                    model.draft_kv_watch = (
                        None if watcher is None else GroupWatch(of_draft, watcher, next_known=False)
                    )
                continue
            # The stages of a pipeline learn from a later iteration what the last one chose.
            chooses = not isinstance(scheduler, PipelineScheduler)
            scheduler.kv_watch = (
                None if watcher is None else GroupWatch(name, watcher, next_known=chooses)
            )

    def cached_slots(self, storage: str) -> CachedSlots | None:
        """What a prefix tree holds of a pool."""
        for name, scheduler in self._schedulers.items():
            names = (name, draft_pool_name(name), window_pool_name(name))
            if storage in names and not scheduler.tree_cache.disable:
                cached = _cached(scheduler)
                window = scheduler.memory.window_storage
                if storage == window_pool_name(name) and window is not None:
                    return _in_window(cached, window.mapping)
                return cached
        return None

    def forwards_total(self, group: str) -> int:
        """Forwards of a model since the start."""
        for name, scheduler in self._schedulers.items():
            if group == name:
                return scheduler.forward_ct
            model = self._models[name]
            if group == draft_pool_name(name) and isinstance(model, SpeculativeModel):
                return model.draft_forwards
        raise KeyError(group)


def _by_name(engine: Engine) -> Mapping[str, Scheduler]:
    schedulers = engine.all_schedulers()
    if any(isinstance(one, PipelineScheduler) for one in schedulers):
        return {_stage_name(one): one for one in schedulers}
    return dict(zip(engine.watch_names, schedulers, strict=True))


def draft_pool_name(full: str) -> str:
    """Return the name of the draft model's pool beside the full pool of this name."""
    _, at, rank = full.partition("@")
    return f"{DRAFT_POOL}{at}{rank}"


def _stage_name(scheduler: Scheduler) -> str:
    assert isinstance(scheduler, PipelineScheduler), "a pipeline has nothing else"
    stage = scheduler.stage
    return "full" if stage.is_first else f"full@{stage.name}"


def _storages(scheduler: Scheduler, kv: KvStorage, *, name: str) -> tuple[KvStorageView, ...]:
    """Return the full pool, and the window pool of a model with sliding windows, as far as there are."""
    views = []
    full = kv.buffers(in_window=False)
    if full:
        views.append(KvStorageView(name=name, buffers=tuple(full)))
    window = scheduler.memory.window_storage
    if window is not None:
        # The `hash` model keeps what is in its window in a pool of the same kind.
        in_window = kv.buffers(in_window=True) or window.kv_pool.buffers(in_window=False)
        views.append(
            KvStorageView(
                name=window_pool_name(name),
                buffers=tuple(in_window),
                mapping=window.mapping,
                window=window.length,
            )
        )
    return tuple(views)


def _tokens(req: Req, start: int, end: int) -> Sequence[int]:
    prompt_len = len(req.origin_input_ids)
    if end <= prompt_len:
        return req.origin_input_ids[start:end]
    outputs = req.output_ids[max(start - prompt_len, 0) : end - prompt_len]
    return [*req.origin_input_ids[start:], *outputs]


def _cached(scheduler: Scheduler) -> CachedSlots:
    tree = scheduler.tree_cache
    last: dict[TreeNode, tuple[int, int]] = {tree.root_node: (-1, 0)}
    slots: list[IntArray] = [np.empty(0, dtype=np.int64)]
    tokens: list[int] = []
    positions: list[IntArray] = list(slots)
    previous: list[IntArray] = list(slots)
    for node in tree.nodes():
        assert node.parent is not None, "only the root has none"
        before, depth = last[node.parent]
        begin, length = len(tokens), len(node.key)
        chain = np.arange(begin - 1, begin - 1 + length)
        chain[0] = before
        slots.append(node.value)
        tokens.extend(node.key)
        positions.append(np.arange(depth, depth + length))
        previous.append(chain)
        last[node] = (begin + length - 1, depth + length)
    return CachedSlots(
        slots=np.concatenate(slots),
        tokens=np.array(tokens, dtype=np.int64),
        positions=np.concatenate(positions),
        previous=np.concatenate(previous),
    )


def _in_window(cached: CachedSlots, mapping: IntArray) -> CachedSlots:
    """Return those that have window slots still."""
    slots = mapping[cached.slots]
    kept = np.flatnonzero(slots)
    place = np.full(len(slots) + 1, _NO_ENTRY, dtype=np.int64)
    place[kept] = np.arange(len(kept))
    place[-1] = -1  # the position before the first one
    return CachedSlots(
        slots=slots[kept],
        tokens=cached.tokens[kept],
        positions=cached.positions[kept],
        previous=place[cached.previous[kept]],
    )
