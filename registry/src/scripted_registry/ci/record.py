"""Remembering how long tests took."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from scripted_registry.ci.results import Attempt, Outcome, ReportLog, TestResult
from scripted_registry.ci.timings import read_timings, write_timings

_TIMED = frozenset({Outcome.PASSED, Outcome.SKIPPED, Outcome.XFAILED, Outcome.XPASSED})
"""A test that failed may have ended early, or hung until it was ended."""


def record_results(path: Path, *, suite: str, results: Iterable[TestResult]) -> int:
    """Add the results of one run to the timings at `path`; return how many tests that were."""
    return _record(path, suite, [result.attempts[-1] for result in results])


def record_logs(path: Path, *, suite: str, logs: Iterable[ReportLog]) -> int:
    """Add what report logs say to the timings at `path`; return how many tests that were."""
    return _record(path, suite, [one for log in logs for one in log.attempts.values()])


def _record(path: Path, suite: str, attempts: Iterable[Attempt]) -> int:
    timings = read_timings(path)
    times = [attempt.as_time() for attempt in attempts if attempt.outcome in _TIMED]
    timings.suite(suite).add(times)
    timings.forget_missing(path.parent.parent)
    write_timings(path, timings)
    return len(times)
