"""The findings as the table of `docs/faults.md`."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import Final

from scripted_registry.errors import ConfigError

from scripted_reference.faults.catalogue import FAULTS
from scripted_reference.faults.fault import Fault
from scripted_reference.faults.measure import Finding, Findings

DOCS_FILE: Final = Path("docs/faults.md")
BEGIN: Final = "<!-- faults: begin, written by `hatch run faults --write-docs` -->"
END: Final = "<!-- faults: end -->"

_HEAD: Final = (
    "| fault | what goes wrong | replaces | stands for | first found by | it shows as |\n"
    "|---|---|---|---|---|---|"
)


def table(findings: Findings) -> str:
    """Return the summary and, area after area, one line for each fault."""
    found = sum(bool(findings.get(name)) for name in FAULTS)
    parts = [
        f"{len(FAULTS)} faults, {found} found by a named script ({found / len(FAULTS):.0%}).",
    ]
    for area, faults in groupby(FAULTS.values(), key=lambda fault: fault.area):
        rows = "\n".join(_row(fault, findings.get(fault.name, ())) for fault in faults)
        parts.append(f"### {area.value.capitalize()}\n\n{_HEAD}\n{rows}")
    return "\n\n".join(parts)


def written_into(text: str, findings: Findings) -> str:
    """Return a document with the table between its markers; `ConfigError` when it has none."""
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ConfigError(
            f"{DOCS_FILE} has no place for the table",
            hint=f"put the lines {BEGIN!r} and {END!r} into it",
        )
    return f"{before}{begin}\n\n{table(findings)}\n\n{end}{after}"


def _row(fault: Fault, found: Sequence[Finding]) -> str:
    cells = [f"`{fault.name}`", fault.summary, f"`{fault.place}`", fault.stands_for]
    if found:
        cells += [f"`{found[0].script}`{_added(found[0])}", found[0].alarm]
    else:
        cells += ["**not found**", fault.out_of_reach or "no script looks there"]
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _added(finding: Finding) -> str:
    return ", with overlap" if finding.overlap else ""
