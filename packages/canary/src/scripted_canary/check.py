"""One comparison of many slots, and how its outcome is turned into records.

In host memory the outcome of a forward is there at once. On an accelerator it is copied to the host
without waiting, and looked at when the next forward begins, so that nothing stalls the device.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias

from scripted_canary.arrays import Array, Arrays
from scripted_canary.hashing import POSITION_SHIFT, signed
from scripted_canary.shadow import SlotShadow, position_in, token_in
from scripted_canary.violations import KvViolation, Launch, Reason

_TOKEN_BITS = (1 << POSITION_SHIFT) - 1
Names = Callable[[int], tuple[str, int]]
"""From the index of a compared slot to the request and the position that it is read for."""


class Check(Protocol):
    """One comparison that failed somewhere."""

    def records(self, *, at_most: int) -> tuple[list[KvViolation], Counter[Reason]]:
        """The records, no more than so many, and how many failed for each reason."""
        ...


Compared: TypeAlias = tuple[Array, Callable[[], Check]]
"""``bool[n]``, what failed, and the rest, which nobody needs when nothing did."""


class Outcome:
    """Whether anything of several comparisons is wrong, known sooner or later."""

    def __init__(self, compared: Sequence[Compared], *, arrays: Arrays) -> None:
        self._compared = compared
        self._flag = arrays.flag([wrong for wrong, _ in compared])

    def read(self) -> bool:
        """Return it, waiting for the device if need be."""
        return self._flag.read()

    def checks(self) -> list[Check]:
        """The comparisons."""
        return [check() for _, check in self._compared]


@dataclass(kw_only=True)
class SlotCheck:
    """Slots of one pool that were compared.

    Attributes:
        wrong: ``bool[n]``, which of them failed.
        slots: ``int64[n]``.
        expected: the chain of what each should have been written for.
        sums, hashes: what was kept of each, and the hash of its bytes then.
        head: what the slot at an index should have been written for, packed.
        name: who reads it, and for which position.
    """

    shadow: SlotShadow
    step: int
    launch: Launch
    wrong: Array
    slots: Array
    expected: Array
    sums: Array
    hashes: Array | None
    head: Callable[[int], int]
    name: Names

    def records(self, *, at_most: int) -> tuple[list[KvViolation], Counter[Reason]]:
        """The records, no more than so many, and how many slots failed for each reason."""
        found: list[KvViolation] = []
        counts: Counter[Reason] = Counter()
        for index in self.shadow.arrays.where(self.wrong):
            for reason, expected, seen in self._reasons(index):
                counts[reason] += 1
                if len(found) < at_most:
                    found.append(self._record(index, reason, expected, seen))
        return found, counts

    def _reasons(self, index: int) -> list[tuple[Reason, int, int]]:
        """What is wrong with a slot: reasons with what was expected and found."""
        shadow = self.shadow
        # A table may name slots that do not exist; they were compared with the nearest one.
        slot = min(max(int(self.slots[index]), 0), shadow.num_slots - 1)
        want_chain, chain = int(self.expected[index]), int(shadow.chains[slot])
        reasons = []
        if chain != want_chain:
            have, want = int(shadow.heads[slot]), self.head(index)
            reasons = _differences(have, want, want_chain, chain)
        if self.hashes is not None:
            # Of then, not of now: a forward may have written the slot meanwhile.
            data, found = signed(int(self.sums[index]) - chain), int(self.hashes[index])
            if data != found:
                reasons.append((Reason.VERIFY_REAL_KV_HASH, data, found))
        return reasons or [(Reason.VERIFY_CHAIN_HASH, want_chain, int(self.sums[index]))]

    def _record(self, index: int, reason: Reason, expected: int, found: int) -> KvViolation:
        rid, position = self.name(index)
        return KvViolation(
            step=self.step,
            pool=self.shadow.view.name,
            slot=int(self.slots[index]),
            position=position,
            reason=reason,
            expected=expected,
            found=found,
            rid=rid,
            launch=self.launch,
        )


def _differences(
    have: int, want: int, want_chain: int, have_chain: int
) -> list[tuple[Reason, int, int]]:
    """Reasons with what was expected and found, for a slot whose chain is wrong."""
    wrong: list[tuple[Reason, int, int]] = []
    if token_in(have) != token_in(want):
        wrong.append((Reason.VERIFY_TOKEN, token_in(want), token_in(have)))
    if position_in(have) != position_in(want):
        wrong.append((Reason.VERIFY_POSITION, position_in(want), position_in(have)))
    return wrong or [(Reason.VERIFY_CHAIN_HASH, want_chain, have_chain)]


@dataclass(kw_only=True)
class InputCheck:
    """Tokens that a forward is fed, and the slots that it writes them to.

    Attributes:
        positions, fed, slots: ``int64[n]``, where each token stands, what it is and where its KV goes.
        expected: ``int64[n]``, the token that belongs there and its position, packed.
        expected_slots: ``int64[n]``, the slots that the table names.
        tokens, places: ``bool[n]``, which of them failed.
        names: who is fed each.
    """

    pool: str
    step: int
    arrays: Arrays
    positions: Array
    fed: Array
    slots: Array
    expected: Array
    expected_slots: Array
    tokens: Array
    places: Array
    names: Callable[[int], str]

    def records(self, *, at_most: int) -> tuple[list[KvViolation], Counter[Reason]]:
        """The records, no more than so many, and how many tokens failed for each reason."""
        found: list[KvViolation] = []
        counts: Counter[Reason] = Counter()
        for reason, failed, expected, seen in (
            (Reason.WRITE_TOKEN, self.tokens, self.expected & _TOKEN_BITS, self.fed),
            (Reason.WRITE_POSITION, self.places, self.expected_slots, self.slots),
        ):
            for index in self.arrays.where(failed):
                counts[reason] += 1
                if len(found) < at_most:
                    found.append(
                        KvViolation(
                            step=self.step,
                            pool=self.pool,
                            slot=int(self.slots[index]),
                            position=int(self.positions[index]),
                            reason=reason,
                            expected=int(expected[index]),
                            found=int(seen[index]),
                            rid=self.names(index),
                        )
                    )
        return found, counts
