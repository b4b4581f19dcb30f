"""The canary of the pools that the same forwards write."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from scripted_core.kv_watch import CachedSlots, KvBatch, KvGroup

from scripted_canary.check import Check, InputCheck, Names, Outcome, SlotCheck
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
        self.shadows = tuple(
            SlotShadow(view, real_data=settings.real_data) for view in group.storages
        )
        self.device = self.shadows[0].device
        self.table = torch.as_tensor(group.table)
        rows, positions = self.table.shape
        self.truth = RowTruth(rows=rows, positions=positions, device=self.device)
        self._settings = settings
        self._found = found
        self._pending: list[Outcome] = []
        # What a forward reads is verified beside it: it writes other slots. On a CPU there is no beside.
        self._side = torch.cuda.Stream(self.device) if self.device.type == "cuda" else None
        self.forwards = 0
        # On the device: to read it after each forward would wait for that forward.
        self._verified = torch.zeros((), dtype=torch.int64, device=self.device)

    @property
    def verified_slots(self) -> int:
        """Slots that were verified."""
        return int(self._verified)

    # --- forwards

    def before(self, batch: KvBatch) -> None:
        """Verify the slots that the forward reads, and what it is fed."""
        self.settle()
        self.forwards += 1
        rows, starts = self._tensor(batch.rows), self._tensor(batch.starts)
        if not self.truth.is_same_decode(batch):
            self.truth.learn(batch, rows.tolist(), starts.tolist())
        if self._side is None:
            self._verify(batch, rows, starts)
        else:
            self._side.wait_stream(torch.cuda.current_stream(self.device))
            with torch.cuda.stream(self._side):
                self._verify(batch, rows, starts)

    def after(self, batch: KvBatch, next_tokens: Any | None) -> None:
        """Record the slots that the forward has written."""
        if self._side is not None:
            # The records are about to change, and so may what the batch was made of.
            torch.cuda.current_stream(self.device).wait_stream(self._side)
        rows, starts = self._tensor(batch.rows), self._tensor(batch.starts)
        of, positions = self._written(batch, rows, starts)
        fed = self._tensor(batch.input_ids)
        slots = self._tensor(batch.out_slots)
        truth = self.truth
        heads = head_of(fed, positions)
        # The chain of what was fed, which differs from the true one where another token was fed.
        chains = truth.chains[of, positions + 1] + (heads - truth.heads[of, positions])
        for shadow in self.shadows:
            shadow.record(slots, heads, chains)
        if next_tokens is not None and batch.next_known:
            ends = starts + 1 if batch.counts is None else starts + self._tensor(batch.counts)
            truth.chosen(rows, ends, self._tensor(next_tokens))

    def _verify(self, batch: KvBatch, rows: torch.Tensor, starts: torch.Tensor) -> None:
        checks = list(self._reads(batch, rows, starts)) if batch.longest else []
        self._conclude([*checks, self._input(batch, rows, starts)])

    def sweep(self, cached: CachedSlots, shadow: SlotShadow) -> None:
        """Verify the slots of one pool that the prefix tree holds."""
        slots = self._tensor(cached.slots)
        if not len(slots):
            return
        positions = self._tensor(cached.positions)
        check = self._compare(
            shadow,
            launch=Launch.SWEEP,
            slots=slots,
            heads=head_of(self._tensor(cached.tokens), positions),
            expected=shadow.expected_in_tree(cached, self.truth.growth),
            mask=None,
            names=lambda index: ("", int(positions[index])),
        )
        self._verified += len(slots)
        self._conclude([check])

    # --- copies

    def take(self, full_slots: Any) -> tuple[Known, ...]:
        """What is known of these slots, in each pool."""
        slots = self._tensor(full_slots)
        return tuple(shadow.take(slots) for shadow in self.shadows)

    def put(self, full_slots: Any, taken: Sequence[Known]) -> None:
        """The contents of slots were copied into these."""
        slots = self._tensor(full_slots)
        for shadow, known in zip(self.shadows, taken, strict=True):
            shadow.put(slots, known)

    # --- outcomes

    def settle(self) -> None:
        """Look at the outcomes that were not known yet."""
        pending, self._pending = self._pending, []
        for outcome in pending:
            if outcome.read():
                for check in outcome.checks:
                    records, counts = check.records(at_most=self._settings.ring_capacity)
                    if counts:
                        self._found(records, counts)

    def _conclude(self, checks: Sequence[Check]) -> None:
        self._pending.append(Outcome(checks))
        if self.device.type != "cuda":
            self.settle()

    def _reads(self, batch: KvBatch, rows: torch.Tensor, starts: torch.Tensor) -> Iterator[Check]:
        longest, truth = batch.longest, self.truth
        columns = truth.columns[:longest]
        read = columns < starts[:, None]
        slots = self.table[:, :longest].index_select(0, rows).to(torch.int64).flatten()
        heads = truth.heads[:, :longest].index_select(0, rows).flatten()
        chains = truth.chains[:, 1 : longest + 1].index_select(0, rows).flatten()

        def names(index: int) -> tuple[str, int]:
            return batch.rids()[index // longest], index % longest

        for shadow in self.shadows:
            mask = read
            if shadow.view.window is not None:
                mask = read & (columns > starts[:, None] - shadow.view.window)
            self._verified += mask.sum()
            yield self._compare(
                shadow,
                launch=Launch.FORWARD,
                slots=shadow.own(slots),
                heads=heads,
                expected=chains,
                mask=mask.flatten(),
                names=names,
            )

    def _compare(
        self,
        shadow: SlotShadow,
        *,
        launch: Launch,
        slots: torch.Tensor,
        heads: torch.Tensor,
        expected: torch.Tensor,
        mask: torch.Tensor | None,
        names: Names,
    ) -> SlotCheck:
        chains = shadow.broken_chains(slots, expected)
        data = shadow.broken_data(slots) if shadow.hashes_data else None
        if mask is not None:
            chains = chains & mask
            data = None if data is None else data & mask
        return SlotCheck(
            shadow=shadow,
            step=self.forwards,
            launch=launch,
            slots=slots,
            heads=heads,
            expected=expected,
            chains=chains,
            data=data,
            names=names,
        )

    def _input(self, batch: KvBatch, rows: torch.Tensor, starts: torch.Tensor) -> InputCheck:
        """Compare what is fed, and where it goes, with the requests and the table."""
        of, positions = self._written(batch, rows, starts)
        fed, truth = self._tensor(batch.input_ids), self.truth
        if not batch.next_known:
            known = torch.tensor(truth.known, device=self.device)[of]
            guessed = positions >= known
            if bool(guessed.any()):
                truth.assume(of[guessed], positions[guessed], fed[guessed])
        expected, table_slots = truth.heads[of, positions], self.table[of, positions]
        out_slots = self._tensor(batch.out_slots)

        def name(index: int) -> str:
            request = index if batch.counts is None else _owner(batch.counts, index)
            return batch.rids()[request]

        return InputCheck(
            pool=self.group.name,
            step=self.forwards,
            positions=positions,
            fed=fed,
            slots=out_slots,
            expected=expected,
            expected_slots=table_slots,
            tokens=expected != head_of(fed, positions),
            places=table_slots != out_slots,
            names=name,
        )

    def _written(
        self, batch: KvBatch, rows: torch.Tensor, starts: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Row and position of each token that is computed."""
        if batch.counts is None:
            return rows, starts
        counts = self._tensor(batch.counts)
        first = (counts.cumsum(0) - counts).repeat_interleave(counts)
        offsets = torch.arange(len(first), device=self.device) - first
        return rows.repeat_interleave(counts), starts.repeat_interleave(counts) + offsets

    def _tensor(self, values: Any) -> torch.Tensor:
        return torch.as_tensor(values, dtype=torch.int64, device=self.device)


def _owner(counts: Sequence[int], index: int) -> int:
    """Which request a computed token belongs to."""
    for request, count in enumerate(counts):
        if index < count:
            return request
        index -= count
    raise IndexError(index)
