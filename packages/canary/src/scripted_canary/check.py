"""One comparison of many slots, and how its outcome is turned into records.

In host memory the outcome of a forward is there at once. On an accelerator it is copied to the host
without waiting, and looked at when the next forward begins, so that nothing stalls the device.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias

from scripted_canary.arrays import Array, Arrays, Flag
from scripted_canary.hashing import POSITION_SHIFT, signed
from scripted_canary.shadow import SlotShadow, position_in, token_in
from scripted_canary.violations import KvViolation, Launch, Reason
from scripted_canary.work import Fed, Reads

_TOKEN_BITS = (1 << POSITION_SHIFT) - 1
Names = Callable[[int], tuple[str, int]]
"""From the index of a compared slot to the request and the position that it is read for."""


class Check(Protocol):
    """One comparison that failed somewhere."""

    def records(self, *, at_most: int) -> tuple[list[KvViolation], Counter[Reason]]:
        """The records, no more than so many, and how many failed for each reason."""
        ...


Compared: TypeAlias = tuple[tuple[Array, ...], Callable[[], Check]]
"""``bool[n]`` each, what failed, and the rest, which nobody needs when nothing did."""


class Flags(Protocol):
    """Whoever made masks, and can tell whether anything in them is true."""

    def flag(self, masks: Sequence[Array]) -> Flag:
        """Whether any of them is true anywhere, known now or later."""
        ...


class Outcome:
    """Whether anything of several comparisons is wrong, known sooner or later."""

    def __init__(self, compared: Sequence[Compared], *, flags: Flags) -> None:
        self._compared = compared
        self._flag = flags.flag([mask for masks, _ in compared for mask in masks])

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
        found: what was found in them.
        head: what the slot at an index should have been written for, packed.
        name: who reads it, and for which position.
    """

    shadow: SlotShadow
    step: int
    launch: Launch
    found: Reads
    head: Callable[[int], int]
    name: Names

    def records(self, *, at_most: int) -> tuple[list[KvViolation], Counter[Reason]]:
        """The records, no more than so many, and how many slots failed for each reason."""
        records: list[KvViolation] = []
        counts: Counter[Reason] = Counter()
        for index in self.shadow.arrays.where(self.found.wrong):
            for reason, expected, seen in self._reasons(index):
                counts[reason] += 1
                if len(records) < at_most:
                    records.append(self._record(index, reason, expected, seen))
        return records, counts

    def _reasons(self, index: int) -> list[tuple[Reason, int, int]]:
        """What is wrong with a slot: reasons with what was expected and found."""
        shadow, found = self.shadow, self.found
        # A table may name slots that do not exist; they were compared with the nearest one.
        slot = min(max(int(found.slots[index]), 0), shadow.num_slots - 1)
        want_chain, chain = int(found.expected[index]), int(shadow.chains[slot])
        reasons = []
        if chain != want_chain:
            have, want = int(shadow.heads[slot]), self.head(index)
            reasons = _differences(have, want, want_chain, chain)
        kept = int(found.sums[index])
        if found.hashes is not None:
            # Of then, not of now: a forward may have written the slot meanwhile.
            data, now = signed(kept - chain), int(found.hashes[index])
            if data != now:
                reasons.append((Reason.VERIFY_REAL_KV_HASH, data, now))
        return reasons or [(Reason.VERIFY_CHAIN_HASH, want_chain, kept)]

    def _record(self, index: int, reason: Reason, expected: int, found: int) -> KvViolation:
        rid, position = self.name(index)
        return KvViolation(
            step=self.step,
            pool=self.shadow.view.name,
            slot=int(self.found.slots[index]),
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
        fed: what was looked up of them.
        names: who is fed each.
    """

    pool: str
    step: int
    arrays: Arrays
    fed: Fed
    names: Callable[[int], str]

    def records(self, *, at_most: int) -> tuple[list[KvViolation], Counter[Reason]]:
        """The records, no more than so many, and how many tokens failed for each reason."""
        found: list[KvViolation] = []
        counts: Counter[Reason] = Counter()
        fed, tokens = self.fed, self.fed.tokens
        for reason, failed, expected, seen in (
            (Reason.WRITE_TOKEN, fed.wrong_tokens, fed.expected & _TOKEN_BITS, tokens.ids),
            (Reason.WRITE_POSITION, fed.wrong_places, fed.table_slots, tokens.slots),
        ):
            for index in self.arrays.where(failed):
                counts[reason] += 1
                if len(found) < at_most:
                    found.append(
                        KvViolation(
                            step=self.step,
                            pool=self.pool,
                            slot=int(tokens.slots[index]),
                            position=int(tokens.positions[index]),
                            reason=reason,
                            expected=int(expected[index]),
                            found=int(seen[index]),
                            rid=self.names(index),
                        )
                    )
        return found, counts
