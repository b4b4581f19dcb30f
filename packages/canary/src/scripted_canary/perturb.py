"""Breaking slots on purpose, reproducibly: what a canary has to find.

A perturbation is armed, and happens at the first forward that has what it takes: a slot to read, two
requests whose rows differ. The engine is left as after a real bug, except that swapped rows are swapped
back behind the forward, since memory would otherwise be given back by the wrong request. With ``undo``
flipped bytes are put back there as well, so that thousands of perturbations fit into one run.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any

import numpy as np
from scripted_core.errors import ConfigError
from scripted_core.kv_watch import KvBatch, KvWatchPort
from scripted_core.logs import get_logger

from scripted_canary.hashing import PARTIAL_BYTES
from scripted_canary.settings import RealData
from scripted_canary.shadow import SlotShadow

if TYPE_CHECKING:
    from scripted_canary.group import GroupCanary

_log = get_logger("scripted.canary")


class PerturbKind(StrEnum):
    """What is broken."""

    USED_SLOT = "used_slot"
    """A byte of a slot that the forward is about to read."""
    CACHED_ORPHAN = "cached_orphan"
    """A byte of a slot that the prefix tree holds and the forward does not read."""
    AFTER_FORWARD = "after_forward"
    """A byte of a slot that the forward has just written."""
    SWAP_ROWS = "swap_rows"
    """Two requests' entries in the table from positions to slots."""
    SWAP_NEXT_TOKEN = "swap_next_token"
    """The tokens that two decoding requests are fed."""


@dataclass(kw_only=True)
class Perturbation:
    """One perturbation, armed or done.

    Attributes:
        kind: what is broken.
        storage: the pool, by name.
        seed: of every choice that is made.
        rid: only slots of this request, where one is read or written; empty for any.
        undo: whether flipped bytes are put back behind the forward.
        within: which bytes may be flipped: the first 16 of a slot, or all of them.
        done: the forward of the group at which it happened, from 1; 0 while it is armed.
        slot: which slot was broken; -1 where none was.
        restore: puts flipped bytes back, if the slot was not written since.
    """

    kind: PerturbKind
    storage: str = "full"
    seed: int = 0
    rid: str = ""
    undo: bool = False
    within: RealData = RealData.ALL
    done: int = 0
    slot: int = -1
    restore: Callable[[], None] | None = field(default=None, repr=False)
    put_back: list[Callable[[], None]] = field(default_factory=list, repr=False)


@dataclass(frozen=True, kw_only=True)
class PerturbRate:
    """A perturbation that is armed again and again, with a probability for each forward."""

    kind: PerturbKind
    probability: float
    storage: str = "full"
    seed: int = 0
    undo: bool = False


class KvPerturber:
    """Arms perturbations, and lets them happen."""

    def __init__(self, port: KvWatchPort, groups: Mapping[str, GroupCanary]) -> None:
        self._port = port
        self._groups = groups
        self._armed: list[Perturbation] = []
        self._behind: list[Perturbation] = []
        self._rates: list[tuple[PerturbRate, random.Random]] = []
        self.done: list[Perturbation] = []

    def arm(self, perturbation: Perturbation) -> Perturbation:
        """Let it happen at the first forward that has what it takes; else ``ConfigError``."""
        known = self._known()
        if perturbation.storage not in known:
            raise ConfigError(
                f"perturb: there is no KV pool {perturbation.storage!r}",
                hint=f"pools here: {', '.join(known)}",
            )
        self._armed.append(perturbation)
        return perturbation

    def every(self, rates: Sequence[PerturbRate]) -> None:
        """Arm perturbations at random from now on, reproducibly.

        One of a pool that is not here is passed over: both servers of a pair are told the same.
        """
        for rate in rates:
            if rate.storage not in self._known():
                _log.warning(
                    "nothing of this kv pool is perturbed here: it is not in this process",
                    pool=rate.storage,
                    pools=self._known(),
                )
        self._rates = [(rate, random.Random(rate.seed)) for rate in rates]

    def _known(self) -> list[str]:
        return [view.name for group in self._groups.values() for view in group.group.storages]

    def disarm_script(self) -> None:
        """Forget what was armed one by one; what happens at random goes on."""
        self._armed.clear()
        self.done.clear()

    def before(self, group: GroupCanary, batch: KvBatch) -> None:
        """A forward is about to begin."""
        for rate, random_numbers in self._rates:
            if self._is_of(group, rate.storage) and random_numbers.random() < rate.probability:
                self._armed.append(
                    Perturbation(
                        kind=rate.kind,
                        storage=rate.storage,
                        seed=random_numbers.getrandbits(32),
                        undo=rate.undo,
                    )
                )
        if self._armed:
            self._try(group, batch, _BEFORE, step=group.forwards + 1)

    def after(self, group: GroupCanary, batch: KvBatch) -> None:
        """A forward has ended."""
        if self._behind:
            ended, self._behind = self._behind, []
            for one in ended:
                for put_back in one.put_back:
                    put_back()
                one.put_back.clear()
        if self._armed:
            self._try(group, batch, _AFTER, step=group.forwards)

    def _try(
        self, group: GroupCanary, batch: KvBatch, kinds: Mapping[PerturbKind, _Act], *, step: int
    ) -> None:
        for one in list(self._armed):
            if one.kind not in kinds or not self._is_of(group, one.storage):
                continue
            shadow = next(s for s in group.shadows if s.view.name == one.storage)
            if kinds[one.kind](self._port, group, shadow, batch, one):
                one.done = step
                self._armed.remove(one)
                self.done.append(one)
                if one.put_back:
                    self._behind.append(one)

    @staticmethod
    def _is_of(group: GroupCanary, storage: str) -> bool:
        return any(view.name == storage for view in group.group.storages)


_Act = Callable[[KvWatchPort, "GroupCanary", SlotShadow, KvBatch, Perturbation], bool]


def _flip_used(
    port: KvWatchPort, group: GroupCanary, shadow: SlotShadow, batch: KvBatch, one: Perturbation
) -> bool:
    numbers = random.Random(one.seed)
    choices = [
        index
        for index, (rid, start) in enumerate(zip(batch.rids(), _plain(batch.starts), strict=True))
        if start and one.rid in ("", rid)
    ]
    if not choices:
        return False
    index = numbers.choice(choices)
    start = _plain(batch.starts)[index]
    window = shadow.view.window
    first = 0 if window is None else max(start - window + 1, 0)
    if first >= start:
        return False
    position = numbers.randrange(first, start)
    full_slot = group.table[_plain(batch.rows)[index], position]
    return _flip(shadow, _own(shadow, [int(full_slot)])[0], one, numbers)


def _flip_orphan(
    port: KvWatchPort, group: GroupCanary, shadow: SlotShadow, batch: KvBatch, one: Perturbation
) -> bool:
    cached = port.cached_slots(one.storage)
    if cached is None:
        return False
    rows, starts = _plain(batch.rows), _plain(batch.starts)
    read = [
        slot
        for row, start in zip(rows, starts, strict=True)
        for slot in _plain(group.table[row, :start])
    ]
    orphans = sorted(set(_plain(cached.slots)) - set(_own(shadow, read)))
    if not orphans:
        return False
    numbers = random.Random(one.seed)
    one.undo = False  # a sweep has to come first
    return _flip(shadow, numbers.choice(orphans), one, numbers)


def _flip_written(
    port: KvWatchPort, group: GroupCanary, shadow: SlotShadow, batch: KvBatch, one: Perturbation
) -> bool:
    rids = batch.rids()
    counts = [1] * len(rids) if batch.counts is None else list(batch.counts)
    owners = [rid for rid, count in zip(rids, counts, strict=True) for _ in range(count)]
    slots = _plain(batch.out_slots)
    choices = [slot for slot, rid in zip(slots, owners, strict=True) if one.rid in ("", rid)]
    if not choices:
        return False
    numbers = random.Random(one.seed)
    one.undo = False  # nobody has read it yet
    return _flip(shadow, _own(shadow, [numbers.choice(choices)])[0], one, numbers)


def _swap_rows(
    port: KvWatchPort, group: GroupCanary, shadow: SlotShadow, batch: KvBatch, one: Perturbation
) -> bool:
    rows, starts = _plain(batch.rows), _plain(batch.starts)
    table, chains = group.table, group.truth.chains
    pairs = [
        (rows[a], rows[b], common)
        for a in range(len(rows))
        for b in range(a)
        if (common := min(starts[a], starts[b]))
        and int(chains[rows[a], common]) != int(chains[rows[b], common])
        and _plain(table[rows[a], :common]) != _plain(table[rows[b], :common])
    ]
    if not pairs:
        return False
    first, second, length = random.Random(one.seed).choice(pairs)

    def swap() -> None:
        # What is selected by a list is a copy.
        table[[first, second], :length] = table[[second, first], :length]

    swap()
    one.put_back.append(swap)
    return True


def _swap_next_token(
    port: KvWatchPort, group: GroupCanary, shadow: SlotShadow, batch: KvBatch, one: Perturbation
) -> bool:
    if batch.counts is not None:
        return False
    fed = _plain(batch.input_ids)
    pairs = [(a, b) for a in range(len(fed)) for b in range(a) if fed[a] != fed[b]]
    if not pairs:
        return False
    first, second = random.Random(one.seed).choice(pairs)
    # Another array: the engine may still have the old one as the result of the forward before.
    fed_before = batch.input_ids
    swapped = fed_before.copy() if isinstance(fed_before, np.ndarray) else fed_before.clone()
    swapped[first], swapped[second] = fed[second], fed[first]
    batch.input_ids = swapped
    return True


def _flip(shadow: SlotShadow, slot: int, one: Perturbation, numbers: random.Random) -> bool:
    """Flip bits of one byte of a slot."""
    if one.within is RealData.ALL:
        content = numbers.choice(shadow.buffers)
        size = content.shape[1]
    else:
        content = shadow.buffers[0]
        size = min(content.shape[1], PARTIAL_BYTES)
    at, bits = numbers.randrange(size), numbers.randrange(1, 256)

    def flip() -> None:
        shadow.arrays.flip(content, slot, at, bits)

    flip()
    one.slot = slot
    one.restore = flip
    if one.undo:
        one.put_back.append(flip)
    return True


def _own(shadow: SlotShadow, full_slots: list[int]) -> list[int]:
    """A pool's slots beside full slots."""
    return _plain(shadow.own(shadow.arrays.whole(full_slots)))


def _plain(values: Any) -> list[int]:
    plain: list[int] = values.tolist()
    return plain


_BEFORE: Mapping[PerturbKind, _Act] = {
    PerturbKind.USED_SLOT: _flip_used,
    PerturbKind.CACHED_ORPHAN: _flip_orphan,
    PerturbKind.SWAP_ROWS: _swap_rows,
    PerturbKind.SWAP_NEXT_TOKEN: _swap_next_token,
}
_AFTER: Mapping[PerturbKind, _Act] = {PerturbKind.AFTER_FORWARD: _flip_written}
