"""Work for an engine whose canary is measured, and a witness of every forward that judges the canary.

The witness stands between engine and canary, and goes by what it sees itself: which slots a forward
reads through the table, which it writes, what a sweep of the prefix tree covers. A flip that nobody
reported is a miss only if somebody has read the slot, or a sweep has come by it, before it was written
again or given back.
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from typing import Any, Final

import numpy as np
from scripted_canary.canary import Canary
from scripted_canary.perturb import Perturbation
from scripted_canary.violations import KvViolation, Launch
from scripted_core import ScriptedContext
from scripted_core.kv_report import KvReport
from scripted_core.kv_watch import KvBatch, KvWatcher, KvWatchPort, SentSlots

AT_ONCE: Final = 6
"""Requests that are kept in the engine."""
_FAMILIES: Final = 5
"""So many beginnings that prompts share."""


class Fate(StrEnum):
    """What became of a slot that was broken."""

    FOUND = "found"
    MISSED = "missed"
    """Read by a forward, or held by the prefix tree during a sweep, and not reported."""
    REWRITTEN = "rewritten"
    """Evicted and written by a later forward before anybody read it."""
    FREED = "freed"
    """Given back before anybody read it."""


class Load:
    """Requests that come and go: chunked prompts, shared prefixes, evictions in a small pool."""

    def __init__(self, t: ScriptedContext, *, seed: int, at_once: int = AT_ONCE) -> None:
        self._t = t
        self._numbers = random.Random(seed)
        self._at_once = at_once
        self._live: list[Any] = []

    def top_up(self) -> None:
        """Start as many requests as have ended."""
        self._live = [one for one in self._live if not one.finished]
        numbers = self._numbers
        while len(self._live) < self._at_once:
            shared = random.Random(numbers.randrange(_FAMILIES))
            prompt = [shared.randrange(2, 4000) for _ in range(numbers.randrange(4, 48))]
            prompt += [numbers.randrange(2, 4000) for _ in range(numbers.randrange(1, 48))]
            self._live.append(
                self._t.start_req(
                    input_ids=prompt, max_new_tokens=numbers.randrange(4, 24), ignore_eos=True
                )
            )


class Witness:
    """Sees every forward beside the canary.

    Attributes:
        forwards: of the watched group.
        fresh: what the canary reported since the last ``take_reports``.
        on_flip: a perturbation; once it has happened, what becomes of its slot is judged.
        slot, fate, step: that slot, what became of it and at which forward; -1 for none.
        found_by: what found it.
        costs_ns: processor time of the canary for each forward.
        verified: slots that it verified in each forward.
    """

    def __init__(self, canary: Canary, port: KvWatchPort, *, pool: str = "full") -> None:
        self.canary = canary
        self._port, self._pool = port, pool
        self._group = canary.groups[pool].group
        self._counted = canary.violations_total
        self.forwards = canary.forwards_seen(pool)
        self.fresh: list[KvViolation] = []
        self.on_flip: Perturbation | None = None
        self.slot = -1
        self.fate: Fate | None = None
        self.step = 0
        self.found_by: Launch | None = None
        self.costs_ns: list[int] = []
        self.verified: list[int] = []

    # --- what is judged

    def _track(self) -> None:
        """Judge what becomes of a slot that was broken just now."""
        if self.on_flip is not None and self.on_flip.done:
            self.slot, self.fate, self.found_by = self.on_flip.slot, None, None
            self.on_flip = None

    def take_reports(self) -> list[KvViolation]:
        """What the canary reported since the last call."""
        taken, self.fresh = self.fresh, []
        return taken

    def decide(self, fate: Fate, *, by: Launch | None = None) -> None:
        """What became of the tracked slot, unless it is decided already."""
        if self.slot >= 0 and self.fate is None:
            self.fate, self.step, self.found_by = fate, self.forwards, by

    # --- KvWatcher

    @property
    def violations_total(self) -> int:
        """The canary's."""
        return self.canary.violations_total

    @property
    def verified_slots_total(self) -> int:
        """The canary's."""
        return self.canary.verified_slots_total

    def before_forward(self, group: str, batch: KvBatch) -> None:
        """The canary verifies: a tracked slot that is read has to be among what it reports."""
        verified = self.canary.verified_slots_total
        begun = time.thread_time_ns()
        self.canary.before_forward(group, batch)
        cost = time.thread_time_ns() - begun
        if group != self._pool:
            return
        self.forwards += 1
        self.costs_ns.append(cost)
        self.verified.append(self.canary.verified_slots_total - verified)
        self._track()
        found = self._reported()
        if self.slot >= 0 and self._is_read(batch):
            self.decide(Fate.FOUND if found else Fate.MISSED, by=Launch.FORWARD)

    def after_forward(self, group: str, batch: KvBatch, next_tokens: Any | None) -> None:
        """The canary records, and sweeps when it is time."""
        written = group == self._pool and self.slot in np.asarray(batch.out_slots)
        if written:
            self.decide(Fate.REWRITTEN)
        begun = time.thread_time_ns()
        self.canary.after_forward(group, batch, next_tokens)
        if group != self._pool:
            return
        self.costs_ns[-1] += time.thread_time_ns() - begun
        self._track()
        found = self._reported()
        interval = self.canary.settings.sweep_interval
        if interval and self.forwards % interval == 0 and self.slot >= 0:
            cached = self._port.cached_slots(self._pool)
            if found:
                self.decide(Fate.FOUND, by=Launch.SWEEP)
            elif cached is not None and self.slot in cached.slots:
                self.decide(Fate.MISSED)

    def take(self, group: str, slots: Any) -> Any:
        """Copies are the canary's."""
        return self.canary.take(group, slots)

    def put(self, group: str, slots: Any, taken: Any) -> None:
        """Copies are the canary's."""
        self.canary.put(group, slots, taken)

    def send(self, group: str, slots: Any) -> SentSlots:
        """Copies are the canary's."""
        return self.canary.send(group, slots)

    def receive(self, group: str, slots: Any, sent: SentSlots | None) -> None:
        """Copies are the canary's."""
        self.canary.receive(group, slots, sent)

    def report(self) -> KvReport:
        """What the canary says."""
        return self.canary.report()

    def _reported(self) -> bool:
        """Take in what was reported; whether the tracked slot is among it."""
        fresh = self.canary.violations.last(self.canary.violations_total - self._counted)
        self._counted = self.canary.violations_total
        self.fresh.extend(fresh)
        return any(one.slot == self.slot for one in fresh)

    def _is_read(self, batch: KvBatch) -> bool:
        table = self._group.table
        return any(
            self.slot in table[row, :start]
            for row, start in zip(batch.rows.tolist(), batch.starts.tolist(), strict=True)
        )


@contextmanager
def witnessed(t: ScriptedContext, *, pool: str = "full") -> Iterator[Witness]:
    """Put a witness between this engine and its canary."""
    canary: Canary = t.canary
    port = t.engine
    assert isinstance(port, KvWatchPort), "an engine with a canary shows its KV"
    witness = Witness(canary, port, pool=pool)
    watcher: KvWatcher = witness
    port.watch_kv(watcher)
    try:
        yield witness
    finally:
        port.watch_kv(canary)


def is_free(t: ScriptedContext, slot: int) -> bool:
    """Whether a slot of the full pool is in the free list, at an iteration boundary."""
    allocator = t.scheduler.token_to_kv_pool_allocator
    return bool(slot // allocator.page_size in allocator.free_pages)
