"""What came out of a kit: checks, tables and series, before anybody draws or judges them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from scripted_core.errors import CapabilityMissing, ScriptedError

from scripted_kit_client.errors import KitFailed


class Outcome(StrEnum):
    """How a check, or a kit, came out."""

    PASSED = "passed"
    FAILED = "failed"
    SKIPPED = "skipped"
    """The server lacks a capability, which the message names."""
    BROKEN = "broken"
    """The server died, hung or refused; nothing is said of what was to be checked."""


@dataclass(frozen=True, kw_only=True)
class Check:
    """One thing that was looked at; `message` says what was seen, also when all is well."""

    name: str
    outcome: Outcome
    message: str
    duration_s: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Table:
    """Figures for people; every cell is text."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True, kw_only=True)
class Series:
    """Values over time: for each label its (seconds, value) points, and lines to compare them with."""

    title: str
    unit: str
    points: tuple[tuple[str, tuple[tuple[float, float], ...]], ...]
    lines: tuple[tuple[str, float], ...] = ()


@dataclass(frozen=True, kw_only=True)
class KitReport:
    """One run of a kit.

    Attributes:
        kit: its name.
        url, engine, model: the server.
        checks: in the order in which they were made.
        tables: figures, which are shown before any check is.
        series: what a plot shows.
        figures: the measured values by name, for programs.
        error: what ended the kit early, if something did.
        duration_s: all of it.
    """

    kit: str
    url: str
    engine: str
    model: str
    checks: tuple[Check, ...]
    tables: tuple[Table, ...] = ()
    series: tuple[Series, ...] = ()
    figures: dict[str, float | int | str | None] = field(default_factory=dict)
    error: ScriptedError | None = None
    duration_s: float = 0.0

    @property
    def outcome(self) -> Outcome:
        """Broken, failed, passed or skipped: the first of these that anything was."""
        if self.error is not None:
            return Outcome.BROKEN
        outcomes = {check.outcome for check in self.checks}
        for one in (Outcome.BROKEN, Outcome.FAILED, Outcome.PASSED):
            if one in outcomes:
                return one
        return Outcome.SKIPPED

    def with_outcome(self, outcome: Outcome) -> list[Check]:
        """The checks that came out like that."""
        return [check for check in self.checks if check.outcome is outcome]

    def raise_for_outcome(self) -> None:
        """Do nothing for a kit that passed.

        Raises `KitFailed` with every failed check, `CapabilityMissing` when all were skipped, and the
        error that ended the kit when one did.
        """
        if self.error is not None:
            raise self.error
        failed = self.with_outcome(Outcome.FAILED)
        if failed:
            raise KitFailed(
                f"kit {self.kit}: {len(failed)} of {len(self.checks)} checks failed on "
                f"{self.engine} at {self.url}\n{_listed(failed)}"
            )
        if self.outcome is Outcome.SKIPPED:
            raise CapabilityMissing(f"kit {self.kit}: {_listed(self.checks)}")


def _listed(checks: Sequence[Check]) -> str:
    return "\n".join(f"{check.name}: {check.message}" for check in checks)
