"""What a report says about a scripted test."""

from __future__ import annotations

import pytest

from scripted_core.errors import ScriptedError


def as_error_if_not_an_expectation(report: pytest.TestReport, error: BaseException) -> None:
    """Mark the report of a call that broke for another reason than a failed expectation.

    pytest calls every exception of the call phase a failure. A report of another phase is an error
    to the terminal, to JUnit and to xdist alike, and ``pytest_report_teststatus`` names it.
    """
    if isinstance(error, ScriptedError) and not isinstance(error, AssertionError):
        report.when = "script"  # type: ignore[assignment]
        report.scripted_error = True  # type: ignore[attr-defined]
        report.longrepr = f"{type(error).__name__} [{error.code}]: {error}"
