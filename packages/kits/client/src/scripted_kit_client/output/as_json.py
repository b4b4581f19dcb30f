"""A report for programs."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any

from scripted_kit_client.report import KitReport


def report_object(report: KitReport) -> dict[str, Any]:
    """Plain data; a value that is not a number is `None`, since JSON has none."""
    error = report.error
    return {
        "kit": report.kit,
        "outcome": report.outcome.value,
        "url": report.url,
        "engine": report.engine,
        "model": report.model,
        "duration_s": round(report.duration_s, 3),
        "error": None
        if error is None
        else {"code": error.code, "message": error.message, "hint": error.hint},
        "figures": {name: _finite(value) for name, value in report.figures.items()},
        "checks": [
            {
                "name": check.name,
                "outcome": check.outcome.value,
                "message": check.message,
                "duration_s": round(check.duration_s, 3),
            }
            for check in report.checks
        ],
        "tables": [
            {"title": one.title, "columns": one.columns, "rows": one.rows} for one in report.tables
        ],
        "series": [
            {
                "title": one.title,
                "unit": one.unit,
                "points": {
                    label: [(round(at, 4), _finite(value)) for at, value in points]
                    for label, points in one.points
                },
                "lines": dict(one.lines),
            }
            for one in report.series
        ],
    }


def reports_as_json(reports: Sequence[KitReport]) -> str:
    """One object with a list of reports."""
    return json.dumps({"kits": [report_object(one) for one in reports]}, indent=2)


def _finite(value: float | int | str | None) -> float | int | str | None:
    return None if isinstance(value, float) and not math.isfinite(value) else value
