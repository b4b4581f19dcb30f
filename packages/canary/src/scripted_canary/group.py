"""The canary of the pools that the same forwards write."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from scripted_core.kv_watch import CachedSlots, KvBatch, KvGroup

from scripted_canary.arrays import Array, arrays_for
from scripted_canary.check import Compared, InputCheck, Names, Outcome, SlotCheck
from scripted_canary.hashing import head_of
from scripted_canary.settings import CanarySettings
from scripted_canary.shadow import Known, SlotShadow
from scripted_canary.truth import RowTruth
from scripted_canary.violations import KvViolation, Launch, Reason

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
        self.table = self.arrays.view(group.table)
        rows, positions = self.table.shape
        self.truth = RowTruth(rows=rows, positions=positions, arrays=self.arrays)
        self._settings = settings
        self._found = found
        self._pending: list[Outcome] = []
        self._fed: _Fed | None = None
        self.forwards = 0
        # On a device it stays there: to read it after each forward would wait for that forward.
        self._verified: Array = 0

    @property
    def verified_slots(self) -> int:
        """Slots that were verified."""
        return int(self._verified)

    # --- forwards

    def before(self, batch: KvBatch) -> None:
        """Verify the slots that the forward reads, and what it is fed."""
        self.settle()
        self.forwards += 1
        whole = self.arrays.whole
        rows, starts = whole(batch.rows), whole(batch.starts)
        if not self.truth.is_same_decode(batch):
            self.truth.learn(batch, rows.tolist(), starts.tolist())
        with self.arrays.beside():
            fed = self._fed = self._look_up(batch, rows, starts)
            compared = [self._compare_input(batch, fed)]
            if batch.longest:
                compared += self._compare_reads(batch, rows, starts)
            self._conclude(compared)

    def after(self, batch: KvBatch, next_tokens: Any | None) -> None:
        """Record the slots that the forward has written."""
        # The records are about to change, and so may what the batch was made of.
        self.arrays.join()
        fed, self._fed = self._fed, None
        assert fed is not None, "the forward was begun"
        truth = self.truth
        known = truth.chains[fed.of, fed.positions + _ONE]
        # The chain of what was fed, which differs from the true one where another token was fed.
        chains = known + (fed.heads - fed.expected)
        for shadow in self.shadows:
            shadow.record(fed.slots, fed.heads, chains)
        if next_tokens is not None and batch.next_known:
            tokens = self.arrays.whole(next_tokens)
            if batch.counts is None:
                truth.chosen(fed.rows, fed.starts + _ONE, tokens, behind=known)
            else:
                ends = fed.starts + self.arrays.whole(batch.counts)
                truth.chosen(fed.rows, ends, tokens, behind=truth.chains[fed.rows, ends])

    def sweep(self, cached: CachedSlots, shadow: SlotShadow) -> None:
        """Verify the slots of one pool that the prefix tree holds."""
        arrays = self.arrays
        slots = arrays.whole(cached.slots)
        if not len(slots):
            return

        def head(index: int) -> int:
            return int(head_of(arrays.whole(cached.tokens), arrays.whole(cached.positions))[index])

        compared = self._compare(
            shadow,
            launch=Launch.SWEEP,
            slots=slots,
            expected=shadow.expected_in_tree(cached, self.truth.growth),
            mask=None,
            head=head,
            name=lambda index: ("", int(cached.positions[index])),
        )
        self._verified += len(slots)
        self._conclude([compared])

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

    def _conclude(self, compared: Sequence[Compared]) -> None:
        outcome = Outcome(compared, arrays=self.arrays)
        if not self.arrays.is_immediate:
            self._pending.append(outcome)
        elif outcome.read():
            self._pending.append(outcome)
            self.settle()

    def _compare_reads(self, batch: KvBatch, rows: Array, starts: Array) -> list[Compared]:
        """Compare the slots that a forward reads with what they were written for."""
        longest, truth, arrays = batch.longest, self.truth, self.arrays
        columns, column = truth.columns[:longest], starts[:, None]
        read = columns < column
        slots = arrays.block(self.table, rows, 0, longest)
        chains = arrays.block(truth.chains, rows, 1, longest + 1)

        def name(index: int) -> tuple[str, int]:
            return batch.rids()[index // longest], index % longest

        def head(index: int) -> int:
            return int(truth.heads[rows[index // longest], index % longest])

        compared = []
        for shadow in self.shadows:
            mask, verified = read, starts
            window = shadow.view.window
            if window is not None:
                mask = read & (columns > column - window)
                verified = starts.clip(max=window - 1)
            self._verified += arrays.total(verified)
            compared.append(
                self._compare(
                    shadow,
                    launch=Launch.FORWARD,
                    slots=shadow.own(slots),
                    expected=chains,
                    mask=mask.reshape(-1),
                    head=head,
                    name=name,
                )
            )
        return compared

    def _compare(
        self,
        shadow: SlotShadow,
        *,
        launch: Launch,
        slots: Array,
        expected: Array,
        mask: Array | None,
        head: Callable[[int], int],
        name: Names,
    ) -> Compared:
        step = self.forwards
        sums, hashes = shadow.held(slots)
        wrong = (sums if hashes is None else sums - hashes) != expected
        if mask is not None:
            wrong &= mask

        def check() -> SlotCheck:
            return SlotCheck(
                shadow=shadow,
                step=step,
                launch=launch,
                wrong=wrong,
                slots=slots,
                expected=expected,
                sums=sums,
                hashes=hashes,
                head=head,
                name=name,
            )

        return wrong, check

    def _compare_input(self, batch: KvBatch, fed: _Fed) -> Compared:
        """Compare what is fed, and where it goes, with the requests and the table."""
        step = self.forwards
        table_slots = self.table[fed.of, fed.positions]
        tokens, places = fed.expected != fed.heads, table_slots != fed.slots

        def name(index: int) -> str:
            request = index if batch.counts is None else _owner(batch.counts, index)
            return batch.rids()[request]

        def check() -> InputCheck:
            return InputCheck(
                pool=self.group.name,
                step=step,
                arrays=self.arrays,
                positions=fed.positions,
                fed=fed.tokens,
                slots=fed.slots,
                expected=fed.expected,
                expected_slots=table_slots,
                tokens=tokens,
                places=places,
                names=name,
            )

        return tokens | places, check

    def _look_up(self, batch: KvBatch, rows: Array, starts: Array) -> _Fed:
        """What a forward is fed, and what belongs there."""
        arrays, truth = self.arrays, self.truth
        of, positions = rows, starts
        if batch.counts is not None:
            counts = arrays.whole(batch.counts)
            first = arrays.repeat(counts.cumsum(0) - counts, counts)
            of = arrays.repeat(rows, counts)
            positions = arrays.repeat(starts, counts) + arrays.arange(len(first)) - first
        tokens = arrays.whole(batch.input_ids)
        if not batch.next_known:
            guessed = positions >= arrays.whole(truth.known)[of]
            if bool(guessed.any()):
                truth.assume(of[guessed], positions[guessed], tokens[guessed])
        return _Fed(
            rows=rows,
            starts=starts,
            of=of,
            positions=positions,
            tokens=tokens,
            slots=arrays.whole(batch.out_slots),
            heads=head_of(tokens, positions),
            expected=truth.heads[of, positions],
        )


@dataclass(kw_only=True, slots=True)
class _Fed:
    """What a forward is fed: of each request its row and start, of each token all the rest.

    Attributes:
        of, positions: row and position.
        tokens, heads: the token, and packed with its position.
        slots: the full slot that its KV goes to.
        expected: the token that belongs there, packed.
    """

    rows: Array
    starts: Array
    of: Array
    positions: Array
    tokens: Array
    slots: Array
    heads: Array
    expected: Array


def _owner(counts: Sequence[int], index: int) -> int:
    """Which request a computed token belongs to."""
    for request, count in enumerate(counts):
        if index < count:
            return request
        index -= count
    raise IndexError(index)


_ONE: Final = np.int64(1)
