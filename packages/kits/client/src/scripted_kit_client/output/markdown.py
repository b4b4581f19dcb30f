"""A report as Markdown, for the summary page of a CI job."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Final

from scripted_core.errors import ConfigError

from scripted_kit_client.output.files import look_at_output
from scripted_kit_client.report import KitReport, Outcome

SUMMARY_VARIABLE: Final = "GITHUB_STEP_SUMMARY"
_MARKS: Final = {
    Outcome.PASSED: "✅",
    Outcome.FAILED: "❌",
    Outcome.SKIPPED: "⏭️",
    Outcome.BROKEN: "💥",
}


def as_markdown(report: KitReport) -> str:
    """A heading with the outcome, the checks, and the figures."""
    parts = [
        f"### {_MARKS[report.outcome]} kit `{report.kit}`: {report.outcome}",
        f"{report.engine or 'server'} `{report.model}` at {report.url}, {report.duration_s:.1f} s",
    ]
    if report.error is not None:
        parts.append(f"> {_cell(report.error.message)}")
    if report.checks:
        rows = [
            (f"{_MARKS[one.outcome]} {one.name}", one.outcome, one.message) for one in report.checks
        ]
        parts.append(_table(("check", "outcome", "seen"), rows))
    for table in report.tables:
        parts += [f"**{table.title}**", _table(table.columns, table.rows)]
    return "\n\n".join(parts) + "\n\n"


def look_at_step_summary(*, environ: Mapping[str, str] = os.environ) -> None:
    """Do nothing when there is no summary, or it can be written; else `ConfigError`."""
    name = environ.get(SUMMARY_VARIABLE)
    if name:
        look_at_output(Path(name), what=f"the summary of ${SUMMARY_VARIABLE}")


def write_step_summary(
    reports: Iterable[KitReport], *, environ: Mapping[str, str] = os.environ
) -> bool:
    """Append reports to the file that GitHub Actions names; whether there is one.

    `ConfigError` when it cannot be written.
    """
    name = environ.get(SUMMARY_VARIABLE)
    if not name:
        return False
    text = "".join(map(as_markdown, reports))
    try:
        with Path(name).open("a", encoding="utf-8", errors="backslashreplace") as file:
            file.write(text)
    except OSError as error:
        raise ConfigError(
            f"${SUMMARY_VARIABLE} names {name}, which cannot be written: {error.strerror}",
            hint="unset it, or let it name a file in a folder that is there",
        ) from error
    return True


def _table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join("| " + " | ".join(map(_cell, line)) + " |" for line in lines)


def _cell(text: str) -> str:
    return " ".join(text.replace("|", "\\|").replace("<", "&lt;").split())
