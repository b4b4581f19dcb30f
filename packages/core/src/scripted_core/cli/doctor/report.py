"""The report as lines for a person, and as JSON for a program."""

from __future__ import annotations

import json

from rich.text import Text

from scripted_core.cli.doctor.findings import Area, Level, Survey
from scripted_core.cli.run_views import make_console, print_lines
from scripted_core.cli.text import printable

_STYLES = {Level.OK: "green", Level.WARN: "yellow", Level.MISSING: "bold red"}
_LEVEL_WIDTH = max(len(level) for level in Level)


def as_text(survey: Survey) -> None:
    """Print the findings by area, each with its remedy in the line below it."""
    console = make_console()
    width = max(len(finding.name) for finding in survey.findings)
    for area in Area:
        of_area = [finding for finding in survey.findings if finding.area is area]
        if of_area:
            print_lines(console, [Text(area.value, style="bold")])
        for finding in of_area:
            line = Text.assemble(
                "  ",
                (finding.level.value.ljust(_LEVEL_WIDTH), _STYLES[finding.level]),
                f"  {finding.name.ljust(width)}  {printable(finding.text)}",
            )
            print_lines(console, [line])
            if finding.remedy is not None:
                indent = " " * (_LEVEL_WIDTH + 4)
                print_lines(
                    console, [Text(f"{indent}-> {printable(finding.remedy)}", style="cyan")]
                )
    print_lines(console, [Text(), _conclusion(survey)])


def _conclusion(survey: Survey) -> Text:
    usable = [
        finding.name
        for finding in survey.findings
        if finding.area is Area.ENGINES and finding.level is not Level.MISSING
    ]
    if survey.can_run:
        return Text(f"scripts can run on: {', '.join(usable)}", style="bold green")
    return Text("no script can run here: see what is missing above", style="bold red")


def to_json(survey: Survey) -> str:
    """One JSON object: ``can_run``, and all findings in order."""
    document = {
        "can_run": survey.can_run,
        "findings": [
            {
                "area": finding.area.name.lower(),
                "level": finding.level.value,
                "name": finding.name,
                "text": finding.text,
                "remedy": finding.remedy,
            }
            for finding in survey.findings
        ],
    }
    return json.dumps(document, indent=2)
