"""What a canary finds: a record for each slot and reason, in a ring that never loses the count."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from scripted_core.errors import ConfigError, EngineError
from scripted_core.kv_report import KvCount, KvRecord


class Reason(StrEnum):
    """What does not hold. The first four are of slots that are read, the others of what is fed."""

    VERIFY_TOKEN = "verify_token"
    """The slot was written for another token."""
    VERIFY_POSITION = "verify_position"
    """The slot was written for another position."""
    VERIFY_CHAIN_HASH = "verify_chain_hash"
    """Token and position fit, but it was written behind another prefix."""
    VERIFY_REAL_KV_HASH = "verify_real_kv_hash"
    """Its keys or values are not those that the forward left there."""
    WRITE_TOKEN = "write_token"
    """The model is fed another token than the request has there."""
    WRITE_POSITION = "write_position"
    """The model writes to another slot than the table names for that position."""
    CANARY_STOPPED = "canary_stopped"
    """The engine ran forwards that the canary was not told of."""


class Launch(StrEnum):
    """What found it: a forward, or a sweep of the prefix tree."""

    FORWARD = "forward"
    SWEEP = "sweep"
    HEALTH = "health"


_READ: Final = (
    Reason.VERIFY_TOKEN,
    Reason.VERIFY_POSITION,
    Reason.VERIFY_CHAIN_HASH,
    Reason.VERIFY_REAL_KV_HASH,
)
_POSSIBLE: Final = (
    *((reason, Launch.FORWARD) for reason in _READ),
    *((reason, Launch.SWEEP) for reason in _READ),
    (Reason.WRITE_TOKEN, Launch.FORWARD),
    (Reason.WRITE_POSITION, Launch.FORWARD),
    (Reason.CANARY_STOPPED, Launch.HEALTH),
)


@dataclass(frozen=True, kw_only=True)
class KvViolation:
    """One slot that does not hold what it should.

    Attributes:
        step: forwards of this pool's model before it was found.
        pool: the pool's name.
        slot: of that pool.
        position: where in the request the slot is.
        reason: what does not hold.
        expected, found: tokens, positions or hashes, as the reason says.
        rid: the request that reads or writes the slot; empty when it is the prefix tree.
        launch: what found it.
    """

    step: int
    pool: str
    slot: int
    position: int
    reason: Reason
    expected: int
    found: int
    rid: str = ""
    launch: Launch = Launch.FORWARD

    @property
    def group(self) -> str:
        """The kind of pool: ``full``, ``window``, ``draft``."""
        return self.pool.partition("@")[0]

    def as_record(self) -> KvRecord:
        """The same in the words of a report."""
        return KvRecord(
            self.step,
            self.pool,
            self.slot,
            self.position,
            self.reason.value,
            self.expected,
            self.found,
            self.rid,
            self.launch.value,
        )

    def describe(self) -> str:
        """One line for people."""
        who = f"request {self.rid}" if self.rid else "the prefix tree"
        if self.launch is Launch.HEALTH:
            return f"{self.pool}: the canary saw {self.found} of {self.expected} forwards"
        return (
            f"{self.reason.value}: slot {self.slot} of pool {self.pool!r}, position {self.position} of "
            f"{who}: expected {self.expected:#x}, found {self.found:#x} (forward {self.step})"
        )


class KvCorrupted(EngineError):
    """A KV slot does not hold what it should, outside any script; ``violations`` has the records."""

    code = "kv-corrupted"

    def __init__(self, violations: Sequence[KvViolation]) -> None:
        super().__init__(
            "KV canary: " + "; ".join(one.describe() for one in violations),
            hint="kv_canary='log' lets the engine run on, and counts",
        )
        self.violations = tuple(violations)


class ViolationLog:
    """The last violations, and how many there were in all.

    Attributes:
        total: how many there were.
        by_kind: the same by pool, reason and launch.
    """

    def __init__(self, *, capacity: int) -> None:
        self._ring: deque[KvViolation] = deque(maxlen=capacity)
        self.total = 0
        self.by_kind: Counter[tuple[str, Reason, Launch]] = Counter()
        self._when_cleared: Counter[tuple[str, Reason, Launch]] = Counter()

    @property
    def capacity(self) -> int:
        """How many are kept."""
        capacity = self._ring.maxlen
        assert capacity is not None, "the ring is bounded"
        return capacity

    def add(self, kept: Sequence[KvViolation], *, counts: Counter[Reason]) -> None:
        """Keep records of one comparison; ``counts`` has how many of each reason, kept or not.

        There has to be one record at least: all are of its pool and launch.
        """
        self._ring.extend(kept)
        pool, launch = kept[0].pool, kept[0].launch
        for reason, count in counts.items():
            self.by_kind[pool, reason, launch] += count
        self.total += sum(counts.values())

    @property
    def since_cleared(self) -> int:
        """How many there were since the start or a clear."""
        return self.total - self._when_cleared.total()

    def counts(self, pools: Iterable[str], *, since_cleared: bool = False) -> tuple[KvCount, ...]:
        """How many there were of each kind possible in these pools, since the start or a clear."""
        before = self._when_cleared if since_cleared else Counter()
        return tuple(
            KvCount(
                pool,
                reason.value,
                launch.value,
                self.by_kind[pool, reason, launch] - before[pool, reason, launch],
            )
            for pool in pools
            for reason, launch in _POSSIBLE
        )

    def __iter__(self) -> Iterable[KvViolation]:
        return iter(tuple(self._ring))

    def last(self, count: int) -> tuple[KvViolation, ...]:
        """The newest ``count`` that are kept, oldest first; ``ConfigError`` for no number from 0 on."""
        if isinstance(count, bool) or not isinstance(count, int) or count < 0:
            raise ConfigError(
                f"violations.last({count!r}): that is no number of violations",
                hint="use a whole number from 0 on",
            )
        kept = tuple(self._ring)
        return kept[max(len(kept) - count, 0) :] if count else ()

    def clear(self) -> None:
        """Forget the records; the counts stay."""
        self._ring.clear()
        self._when_cleared = Counter(self.by_kind)
