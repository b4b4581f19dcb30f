"""What a run of scripts gives, and who looks on."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Protocol

from scripted_core.trace import NOTHING_CHECKED, ChecksDone, StepListener, StepTrace


class RunOutcome(StrEnum):
    """How a script ended."""

    PASSED = "passed"
    FAILED = "failed"
    SKIPPED = "skipped"
    XFAILED = "xfailed"


@dataclass(frozen=True, kw_only=True)
class Heading:
    """Which script runs where."""

    name: str
    engine: str
    mode: str
    seed: int


@dataclass(frozen=True, kw_only=True)
class Ran:
    """One script that was run: how it ended, and what happened in it."""

    heading: Heading
    outcome: RunOutcome
    invariants_checked: bool
    checks: ChecksDone = NOTHING_CHECKED
    trace: tuple[StepTrace, ...] = ()
    steps: int | None = 0
    """Scheduler iterations that the script completed; ``None`` where it was cut off and nobody knows."""
    digest: str | None = None
    """Digest of all events; only of a script that passed."""
    text: str = ""
    """Why it did not pass."""
    code: str | None = None
    """Code of the error, when it was one of ours."""


class RunView(Protocol):
    """Told of a run as it goes; writes to stdout."""

    def left_out(self, name: str, reason: str, path: Path) -> None:
        """A script that only pytest can run."""
        ...

    def starting(self, engine: str) -> AbstractContextManager[object]:
        """Around the start of an engine."""
        ...

    def begin(self, heading: Heading) -> StepListener | None:
        """A script begins; the listener, if there is one, is told of its iterations."""
        ...

    def end(self, result: Ran) -> None:
        """It has ended."""
        ...

    def interrupted(self) -> None:
        """The run was cut off; may be called when nothing runs."""
        ...
