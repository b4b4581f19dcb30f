"""The canary of the pools that the same forwards write."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from scripted_core.kv_watch import CachedSlots, KvBatch, KvGroup

from scripted_canary.arrays import Array
from scripted_canary.check import Compared, Flags, InputCheck, Names, Outcome, SlotCheck
from scripted_canary.hashing import head_of
from scripted_canary.host_arrays import arrays_for
from scripted_canary.settings import CanarySettings
from scripted_canary.shadow import Known, SlotShadow
from scripted_canary.truth import RowTruth
from scripted_canary.violations import KvViolation, Launch, Reason
from scripted_canary.work import Fed, Reads, Tokens, tokens_of, work_for

Found = Callable[[list[KvViolation], Counter[Reason]], None]


class GroupCanary:
    """Verifies what a forward reads, records what it writes.

    ``found`` is given records, and how many there were of each reason.

    Attributes:
        forwards: forwards that were seen.
        verified_slots: slots that were verified, those of a sweep included.
    """

    def __init__(self, group: KvGroup, *, settings: CanarySettings, found: Found) -> None:
        self.group = group
        self.arrays = arrays_for(group.storages[0].buffers[0])
        self.shadows = tuple(
            SlotShadow(view, real_data=settings.real_data, arrays=self.arrays)
            for view in group.storages
        )
        self._table = self.arrays.mirror(group.table)
        rows, positions = self._table.here.shape
        self.truth = RowTruth(rows=rows, positions=positions, arrays=self.arrays)
        self._work = work_for(table=self._table.here, truth=self.truth, arrays=self.arrays)
        self._settings = settings
        self._found = found
        self._pending: list[Outcome] = []
        self._fed: Fed | None = None
        self._swept = 0
        self.forwards = 0

    @property
    def table(self) -> Array:
        """The engine's own table from rows and positions to slots."""
        return self._table.source

    @property
    def verified_slots(self) -> int:
        """Slots that were verified."""
        return int(self._work.verified) + self._swept

    # --- forwards

    def before(self, batch: KvBatch) -> None:
        """Verify the slots that the forward reads, and what it is fed."""
        self.settle()
        self.forwards += 1
        self._table.refresh()
        whole = self.arrays.whole
        rows, starts = whole(batch.rows), whole(batch.starts)
        if not self.truth.is_same_decode(batch):
            self.truth.learn(batch, rows.tolist(), starts.tolist())
        with self.arrays.beside():
            tokens = tokens_of(batch, rows=rows, starts=starts, arrays=self.arrays)
            if not batch.next_known:
                self._assume_guesses(tokens)
            self._fed = self._work.look_up(tokens)
            compared = [self._input(batch, self._fed)]
            if batch.longest:
                compared += [self._reads(batch, tokens, shadow) for shadow in self.shadows]
            self._conclude(compared, self._work)

    def after(self, batch: KvBatch, next_tokens: Any | None) -> None:
        """Record the slots that the forward has written."""
        # The records are about to change, and so may what the batch was made of.
        self.arrays.join()
        fed, self._fed = self._fed, None
        assert fed is not None, "the forward was begun"
        self._work.record(self.shadows, fed)
        if next_tokens is not None and batch.next_known:
            whole = self.arrays.whole
            counts = None if batch.counts is None else whole(batch.counts)
            self._work.chosen(fed, counts, whole(next_tokens))

    def sweep(self, cached: CachedSlots, shadow: SlotShadow) -> None:
        """Verify the slots of one pool that the prefix tree holds."""
        arrays = self.arrays
        slots = arrays.whole(cached.slots)
        if not len(slots):
            return

        def head(index: int) -> int:
            return int(head_of(arrays.whole(cached.tokens), arrays.whole(cached.positions))[index])

        expected = shadow.expected_in_tree(cached, self.truth.growth)
        sums, hashes = shadow.held(slots)
        wrong = (sums if hashes is None else sums - hashes) != expected
        self._swept += len(slots)
        found = Reads(wrong=wrong, slots=slots, expected=expected, sums=sums, hashes=hashes)
        name = _named_in_tree(cached)
        compared = self._slots(shadow, found, launch=Launch.SWEEP, head=head, name=name)
        self._conclude([compared], arrays)

    # --- copies

    def take(self, full_slots: Any) -> tuple[Known, ...]:
        """What is known of these slots, in each pool."""
        slots = self.arrays.whole(full_slots)
        return tuple(shadow.take(slots) for shadow in self.shadows)

    def put(self, full_slots: Any, taken: Sequence[Known]) -> None:
        """The contents of slots were copied into these."""
        slots = self.arrays.whole(full_slots)
        for shadow, known in zip(self.shadows, taken, strict=True):
            shadow.put(slots, known)

    # --- outcomes

    def settle(self) -> None:
        """Look at the outcomes that were not known yet."""
        pending, self._pending = self._pending, []
        for outcome in pending:
            if outcome.read():
                for check in outcome.checks():
                    records, counts = check.records(at_most=self._settings.ring_capacity)
                    if counts:
                        self._found(records, counts)

    def _conclude(self, compared: Sequence[Compared], flags: Flags) -> None:
        outcome = Outcome(compared, flags=flags)
        if not self.arrays.is_immediate:
            self._pending.append(outcome)
        elif outcome.read():
            self._pending.append(outcome)
            self.settle()

    def _assume_guesses(self, tokens: Tokens) -> None:
        truth = self.truth
        guessed = tokens.positions >= self.arrays.whole(truth.known)[tokens.of]
        if bool(guessed.any()):
            truth.assume(tokens.of[guessed], tokens.positions[guessed], tokens.ids[guessed])

    def _reads(self, batch: KvBatch, tokens: Tokens, shadow: SlotShadow) -> Compared:
        longest, truth, rows = batch.longest, self.truth, tokens.rows

        def name(index: int) -> tuple[str, int]:
            return batch.rids()[index // longest], index % longest

        def head(index: int) -> int:
            return int(truth.heads[rows[index // longest], index % longest])

        found = self._work.read(shadow, tokens, longest=longest)
        return self._slots(shadow, found, launch=Launch.FORWARD, head=head, name=name)

    def _slots(
        self,
        shadow: SlotShadow,
        found: Reads,
        *,
        launch: Launch,
        head: Callable[[int], int],
        name: Names,
    ) -> Compared:
        step = self.forwards

        def check() -> SlotCheck:
            return SlotCheck(
                shadow=shadow, step=step, launch=launch, found=found, head=head, name=name
            )

        return (found.wrong,), check

    def _input(self, batch: KvBatch, fed: Fed) -> Compared:
        step = self.forwards

        def name(index: int) -> str:
            request = index if batch.counts is None else _owner(batch.counts, index)
            return batch.rids()[request]

        def check() -> InputCheck:
            return InputCheck(
                pool=self.group.name, step=step, arrays=self.arrays, fed=fed, names=name
            )

        return (fed.wrong_tokens, fed.wrong_places), check


def _named_in_tree(cached: CachedSlots) -> Names:
    return lambda index: ("", int(cached.positions[index]))


def _owner(counts: Sequence[int], index: int) -> int:
    """Which request a computed token belongs to."""
    for request, count in enumerate(counts):
        if index < count:
            return request
        index -= count
    raise IndexError(index)
