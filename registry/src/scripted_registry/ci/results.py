"""What became of each test, over all attempts; and reading it from pytest's report logs."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

from scripted_registry.ci.errors import ReportLogError
from scripted_registry.ci.timings import TestTime

START_PROPERTY = "scripted_engine_start_s"
GROUP_PROPERTY = "scripted_engine_group"
"""What the pytest plugin of scripted-core says of a test in its report's user properties."""


class Outcome(StrEnum):
    """How one test ended, the best first. `MISSING`: it was selected, and nothing came of it."""

    PASSED = "passed"
    SKIPPED = "skipped"
    XFAILED = "xfailed"
    XPASSED = "xpassed"
    FLAKY = "flaky"
    FAILED = "failed"
    ERROR = "error"
    MISSING = "missing"

    @property
    def is_bad(self) -> bool:
        """Whether it fails the run. A flaky test does not; it is always told."""
        return self in (Outcome.FAILED, Outcome.ERROR, Outcome.MISSING)


@dataclass(kw_only=True)
class Attempt:
    """One test in one run of pytest. `seconds` are of setup, call and teardown together.

    Of a bad one `message` is the traceback, `crash` its last line, `output` what was captured.
    `reruns` counts the failures that a plugin of pytest's own repeated before it told of the end.
    """

    nodeid: str
    torn_down: bool = False
    reruns: int = 0
    outcome: Outcome = Outcome.PASSED
    seconds: float = 0.0
    start_s: float | None = None
    group: str | None = None
    message: str = ""
    crash: str = ""
    output: str = ""

    def as_time(self) -> TestTime:
        """What to remember: the time without that of the engine's start."""
        own = max(0.0, self.seconds - (self.start_s or 0.0))
        return TestTime(nodeid=self.nodeid, seconds=own, group=self.group, start_s=self.start_s)


@dataclass(frozen=True, kw_only=True)
class TestResult:
    """One test over all attempts, in order."""

    __test__ = False

    nodeid: str
    attempts: tuple[Attempt, ...]

    @property
    def outcome(self) -> Outcome:
        """The last attempt's; a pass after a failure is flaky."""
        last = self.attempts[-1].outcome
        return Outcome.FLAKY if self.failures and not last.is_bad else last

    @property
    def failures(self) -> int:
        """How many times it failed."""
        return sum(attempt.outcome.is_bad + attempt.reruns for attempt in self.attempts)

    @property
    def times(self) -> int:
        """How many times it ran."""
        return sum(1 + attempt.reruns for attempt in self.attempts)

    @property
    def flake_rate(self) -> float:
        """The part of its runs that failed."""
        return self.failures / self.times

    @property
    def message(self) -> str:
        """What the last failed attempt said."""
        return next((a.message for a in reversed(self.attempts) if a.outcome.is_bad), "")


@dataclass(kw_only=True)
class ReportLog:
    """One run of pytest: its tests in the order in which they began, and what it could not collect.

    `finished` is whether pytest came to its end.
    """

    attempts: dict[str, Attempt] = field(default_factory=dict)
    collection_errors: list[tuple[str, str]] = field(default_factory=list)
    finished: bool = False


def read_report_log(path: Path) -> ReportLog:
    """Return what pytest-reportlog wrote to `path`; a last line that was cut off is passed over.

    Raises `ReportLogError` for a file that is not there or is no report log.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError) as error:
        raise ReportLogError(
            f"{path} cannot be read: {error}", hint="pytest --report-log=PATH writes one"
        ) from error
    log = ReportLog()
    for number, line in enumerate(lines, start=1):
        try:
            _add(log, json.loads(line))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            if number == len(lines):
                break  # pytest was killed while it wrote
            raise ReportLogError(
                f"{path}:{number}: no line of a report log: {type(error).__name__}: {error}",
                hint="give a file that pytest --report-log=PATH wrote",
            ) from error
    for attempt in log.attempts.values():
        if not attempt.torn_down and not attempt.outcome.is_bad:
            attempt.outcome = Outcome.MISSING
            attempt.message = "no result: pytest ended while this test ran"
    return log


def merged(runs: Sequence[ReportLog], *, selected: Iterable[str]) -> list[TestResult]:
    """Return each selected test's result over `runs`, in the order of `selected`.

    A test that the first run has and `selected` has not is kept as well: nothing is left out.
    """
    names = dict.fromkeys(selected)
    for run in runs:
        names |= dict.fromkeys(run.attempts)
    results = []
    for nodeid in names:
        attempts = tuple(run.attempts[nodeid] for run in runs if nodeid in run.attempts)
        missing = Attempt(
            nodeid=nodeid,
            outcome=Outcome.MISSING,
            message="no result: pytest ended before this test did",
        )
        results.append(TestResult(nodeid=nodeid, attempts=attempts or (missing,)))
    return results


def _add(log: ReportLog, data: dict[str, Any]) -> None:
    kind = data.get("$report_type")
    if kind == "SessionFinish":
        log.finished = True
    elif kind == "CollectReport":
        if data["outcome"] == "failed":
            log.collection_errors.append((data["nodeid"], _text(data.get("longrepr"))))
    elif isinstance(data.get("nodeid"), str) and "when" in data:
        _add_phase(log, data)


def _add_phase(log: ReportLog, data: dict[str, Any]) -> None:
    nodeid = data["nodeid"]
    attempt = log.attempts.setdefault(nodeid, Attempt(nodeid=nodeid))
    if data.get("$report_type", "TestReport") == "TestReport":
        attempt.seconds += float(data.get("duration", 0.0))
    for name, value in data.get("user_properties", ()):
        if name == START_PROPERTY:
            attempt.start_s = float(value)
        elif name == GROUP_PROPERTY:
            attempt.group = str(value)
    attempt.torn_down |= data["when"] == "teardown"
    if data["outcome"] == "rerun":
        attempt.reruns += 1
        return
    outcome = _outcome(data)
    if _WEIGHT[outcome] > _WEIGHT[attempt.outcome]:
        attempt.outcome = outcome
        attempt.message = _text(data.get("longrepr"))
        attempt.crash = _crash(data.get("longrepr"))
        attempt.output = _captured(data) if outcome.is_bad else ""


_WEIGHT = {outcome: weight for weight, outcome in enumerate(Outcome)}


def _outcome(data: dict[str, Any]) -> Outcome:
    expected_to_fail = "wasxfail" in data
    if data["outcome"] == "failed":
        return Outcome.FAILED if data["when"] == "call" else Outcome.ERROR
    if data["outcome"] == "skipped":
        return Outcome.XFAILED if expected_to_fail else Outcome.SKIPPED
    return Outcome.XPASSED if expected_to_fail else Outcome.PASSED


def _text(longrepr: Any) -> str:
    """The message of a report: of an exception its traceback and crash line, else its text."""
    if longrepr is None:
        return ""
    if isinstance(longrepr, str):
        return longrepr
    if isinstance(longrepr, list):  # a skip: path, line, reason
        return str(longrepr[-1])
    lines: list[str] = []
    for entry in (longrepr.get("reprtraceback") or {}).get("reprentries", ()):
        lines += (entry.get("data") or {}).get("lines") or ()
    return "\n".join(lines) or _crash(longrepr)


def _crash(longrepr: Any) -> str:
    """What was raised, as one line or some."""
    if not isinstance(longrepr, dict):
        return ""
    return str((longrepr.get("reprcrash") or {}).get("message") or "")


def _captured(data: dict[str, Any]) -> str:
    return "\n".join(f"--- {title} ---\n{text}" for title, text in data.get("sections", ()))
