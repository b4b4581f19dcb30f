"""One comparison of many slots, and how its outcome is turned into records.

On a CPU the outcome of a forward is there at once. On an accelerator it is copied to the host without
waiting, and looked at when the next forward begins, so that nothing stalls the device.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch

from scripted_canary.hashing import POSITION_SHIFT
from scripted_canary.shadow import SlotShadow, position_in, token_in
from scripted_canary.violations import KvViolation, Launch, Reason

_TOKEN_BITS = (1 << POSITION_SHIFT) - 1
Names = Callable[[int], tuple[str, int]]
"""From the index of a compared slot to the request and the position that it is read for."""


class Check(Protocol):
    """One comparison whose outcome is not looked at yet."""

    def wrong(self) -> torch.Tensor:
        """``bool[n]``: what failed."""
        ...

    def records(self, *, at_most: int) -> tuple[list[KvViolation], Counter[Reason]]:
        """The records, no more than so many, and how many failed for each reason."""
        ...


class Outcome:
    """Whether anything of several comparisons is wrong, known sooner or later."""

    def __init__(self, checks: Sequence[Check]) -> None:
        self.checks = tuple(checks)
        flag = torch.stack([check.wrong().any() for check in checks]).any()
        self._event: torch.cuda.Event | None = None
        if flag.device.type == "cuda":
            self._host = torch.empty((), dtype=torch.bool, pin_memory=True)
            self._host.copy_(flag, non_blocking=True)
            self._event = torch.cuda.Event()
            self._event.record()
        else:
            self._host = flag

    def read(self) -> bool:
        """Return it, waiting for the device if need be."""
        if self._event is not None:
            self._event.synchronize()
        return bool(self._host)


@dataclass(kw_only=True)
class SlotCheck:
    """Slots of one pool that were compared.

    Attributes:
        chains, data: ``bool[n]``, which of them failed.
        slots: ``int64[n]``.
        heads, expected: what they should have been written for, packed, and its chain.
        names: who reads each.
    """

    shadow: SlotShadow
    step: int
    launch: Launch
    slots: torch.Tensor
    heads: torch.Tensor
    expected: torch.Tensor
    chains: torch.Tensor
    data: torch.Tensor | None
    names: Names

    def wrong(self) -> torch.Tensor:
        """Which slots failed."""
        return self.chains if self.data is None else self.chains | self.data

    def records(self, *, at_most: int) -> tuple[list[KvViolation], Counter[Reason]]:
        """The records, no more than so many, and how many slots failed for each reason."""
        shadow = self.shadow
        found: list[KvViolation] = []
        counts: Counter[Reason] = Counter()
        for index in self.chains.nonzero().flatten().tolist():
            slot = int(self.slots[index])
            have, want = int(shadow.heads[slot]), int(self.heads[index])
            for reason, expected, seen in _differences(
                have, want, int(self.expected[index]), int(shadow.chains[slot])
            ):
                counts[reason] += 1
                if len(found) < at_most:
                    found.append(self._record(index, slot, reason, expected, seen))
        if self.data is not None:
            for index in self.data.nonzero().flatten().tolist():
                counts[Reason.VERIFY_REAL_KV_HASH] += 1
                if len(found) < at_most:
                    slot = int(self.slots[index])
                    at = torch.tensor([slot], device=shadow.device)
                    found.append(
                        self._record(
                            index,
                            slot,
                            Reason.VERIFY_REAL_KV_HASH,
                            int(shadow.data[slot]),
                            int(shadow.byte_hash.of(at)),
                        )
                    )
        return found, counts

    def _record(
        self, index: int, slot: int, reason: Reason, expected: int, found: int
    ) -> KvViolation:
        rid, position = self.names(index)
        return KvViolation(
            step=self.step,
            pool=self.shadow.view.name,
            slot=slot,
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
    positions: torch.Tensor
    fed: torch.Tensor
    slots: torch.Tensor
    expected: torch.Tensor
    expected_slots: torch.Tensor
    tokens: torch.Tensor
    places: torch.Tensor
    names: Callable[[int], str]

    def wrong(self) -> torch.Tensor:
        """Which tokens failed."""
        return self.tokens | self.places

    def records(self, *, at_most: int) -> tuple[list[KvViolation], Counter[Reason]]:
        """The records, no more than so many, and how many tokens failed for each reason."""
        found: list[KvViolation] = []
        counts: Counter[Reason] = Counter()
        for reason, failed, expected, seen in (
            (Reason.WRITE_TOKEN, self.tokens, self.expected & _TOKEN_BITS, self.fed),
            (Reason.WRITE_POSITION, self.places, self.expected_slots, self.slots),
        ):
            for index in failed.nonzero().flatten().tolist():
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
