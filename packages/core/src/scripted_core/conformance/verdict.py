"""What came out: one row for each check."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Verdict(StrEnum):
    """What an engine makes of one meaning of one call."""

    DOES = "does"
    SKIPS = "skips"
    """It does not have what the call needs; ``Row.seen`` says what."""
    WRONG = "wrong"
    """``Row.seen`` is what it did instead."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One check on one engine."""

    call: str
    means: str
    check: str
    verdict: Verdict
    seen: str = ""


@dataclass(frozen=True, kw_only=True)
class Conformance:
    """All rows of one engine; ``backend`` is its name with its mode, if it is not the default."""

    backend: str
    capabilities: tuple[str, ...]
    rows: tuple[Row, ...]

    def count(self, verdict: Verdict) -> int:
        """How many rows have this verdict."""
        return sum(row.verdict is verdict for row in self.rows)

    @property
    def wrong(self) -> tuple[Row, ...]:
        """The rows in which the engine deviates."""
        return tuple(row for row in self.rows if row.verdict is Verdict.WRONG)

    @property
    def summary(self) -> str:
        """The figures in a line."""
        return (
            f"{len(self.rows)} meanings: {self.count(Verdict.DOES)} done, "
            f"{self.count(Verdict.SKIPS)} skipped, {self.count(Verdict.WRONG)} wrong"
        )
