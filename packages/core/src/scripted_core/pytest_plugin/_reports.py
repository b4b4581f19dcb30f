"""What a report says about a scripted test."""

from __future__ import annotations

import pytest

from scripted_core.errors import ScriptedError, ScriptFailed
from scripted_core.wire.plain import type_name

_LONGEST_TEXT = 200_000


def as_error_if_not_an_expectation(
    report: pytest.TestReport,
    excinfo: pytest.ExceptionInfo[BaseException],
    item: pytest.Item,
    *,
    is_scripted: bool,
) -> None:
    """Mark the report of a call that broke for another reason than a failed expectation.

    pytest calls every exception of the call phase a failure. A report of another phase is an error
    to the terminal, to JUnit and to xdist alike, and ``pytest_report_teststatus`` names it.
    """
    error = excinfo.value
    if isinstance(error, ScriptedError) and not _passes_through(excinfo, item):
        _tell_without_the_harness(report, error, item)
    # Whatever else a script raises arrives as ScriptFailed, or is an outcome of pytest's own.
    ours = isinstance(error, Exception) if is_scripted else isinstance(error, ScriptedError)
    if ours and report.when == "call" and not isinstance(error, AssertionError):
        mark_as_error(report)


def _tell_without_the_harness(
    report: pytest.TestReport, error: ScriptedError, item: pytest.Item
) -> None:
    # What a script in this process raised has a traceback of its own. Any other error brings its
    # whole story in its message: the frames of the harness would only hide it.
    if isinstance(error, ScriptFailed) and error.__cause__ is not None:
        raised = pytest.ExceptionInfo.from_exception(error.__cause__)
        report.longrepr = item.repr_failure(raised)
        report.sections.append(("scripted last state", error.last_state))
    else:
        report.longrepr = f"{type(error).__name__} [{error.code}]: {error}"


def expect_what_the_script_raised(
    report: pytest.TestReport, error: BaseException, item: pytest.Item
) -> bool:
    """Let ``xfail(raises=X)`` see through ``ScriptFailed`` to what the script raised.

    The exception itself may be in another process: its classes have come over by name.
    """
    from _pytest.skipping import xfailed_key

    expected = item.stash.get(xfailed_key, None)
    if expected is None or not isinstance(error, ScriptFailed) or item.config.option.runxfail:
        return False
    raises = expected.raises if isinstance(expected.raises, tuple) else (expected.raises,)
    if not any(isinstance(one, type) and type_name(one) in error.raised for one in raises):
        return False
    report.outcome = "skipped"
    report.wasxfail = expected.reason
    return True


def shorten(report: pytest.TestReport) -> None:
    """Leave the middle out of a failure that nobody could read (an assertion on megabytes)."""
    text = str(report.longrepr or "")
    if len(text) > _LONGEST_TEXT:
        left_out = len(text) - _LONGEST_TEXT
        half = _LONGEST_TEXT // 2
        report.longrepr = (
            f"{text[:half]}\n[... {left_out:,} characters left out ...]\n{text[-half:]}"
        )


def mark_as_error(report: pytest.TestReport) -> None:
    """Let a failed report of the call phase count as an error."""
    report.when = "script"  # type: ignore[assignment]
    report.scripted_error = True  # type: ignore[attr-defined]


def locate_skip(
    report: pytest.TestReport, excinfo: pytest.ExceptionInfo[BaseException], item: pytest.Item
) -> None:
    """Let a skip that was not raised in the test file be shown at the test, not in the harness."""
    if isinstance(report.longrepr, tuple) and not _passes_through(excinfo, item):
        path, line, _ = item.reportinfo()
        report.longrepr = (str(path), (line or 0) + 1, report.longrepr[2])


def _passes_through(excinfo: pytest.ExceptionInfo[BaseException], item: pytest.Item) -> bool:
    return any(entry.path == item.path for entry in excinfo.traceback)
