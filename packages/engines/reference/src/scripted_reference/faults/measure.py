"""Which scripts find which fault: measured, kept beside the catalogue, and read back."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from scripted_reference.faults.catalogue import FAULTS
from scripted_reference.faults.trial import Alarm, Variant, try_out

FOUND_BY_FILE: Final = Path(__file__).with_name("found_by.json")
SCRIPTS_EACH: Final = 3
"""So many different scripts are looked for before a fault counts as found for good."""
REQUIRED_SHARE: Final = 0.9


@dataclass(frozen=True, slots=True)
class Finding:
    """One script that raises an alarm: its name, whether it ran with overlap added, and what it saw."""

    script: str
    overlap: bool
    alarm: str

    @property
    def label(self) -> str:
        """The script, and what is different."""
        return f"{self.script} with overlap" if self.overlap else self.script


@dataclass(frozen=True, slots=True)
class FalseAlarm:
    """A script that raised an alarm without a fault."""

    variant: Variant
    alarm: Alarm

    def __str__(self) -> str:
        return f"{self.variant.name}: {self.alarm.kind.value}: {self.alarm.text}"


Findings = Mapping[str, Sequence[Finding]]
"""By the fault's name; an empty sequence for one that no script finds."""


def false_alarms(variants: Sequence[Variant], *, tick: Callable[[], None]) -> list[FalseAlarm]:
    """Run every script without a fault, and return those that raise an alarm."""
    found = []
    for variant in variants:
        alarm = try_out(variant, fault=None)
        if alarm is not None:
            found.append(FalseAlarm(variant, alarm))
        tick()
    return found


def findings_of(
    fault: str, variants: Sequence[Variant], *, scripts_each: int = SCRIPTS_EACH
) -> list[Finding]:
    """Run the scripts with a fault until `scripts_each` test functions have raised an alarm.

    Of the parameters of one function, only the first that raises it is kept.
    """
    found: dict[str, Finding] = {}
    for variant in variants:
        function = variant.script.name.partition("[")[0]
        if function in found:
            continue
        alarm = try_out(variant, fault=fault)
        if alarm is not None:
            found[function] = Finding(variant.script.name, variant.overlap, str(alarm))
            if len(found) == scripts_each:
                break
    return list(found.values())


def share_found(findings: Findings) -> float:
    """Return which part of the faults was found, from 0 to 1."""
    return sum(bool(found) for found in findings.values()) / max(len(findings), 1)


def save(findings: Findings, file: Path = FOUND_BY_FILE) -> None:
    """Write the findings down, one fault a line."""
    lines = (
        f"  {json.dumps(name)}: {json.dumps([asdict(one) for one in found])}"
        for name, found in findings.items()
    )
    file.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")


def load(file: Path = FOUND_BY_FILE) -> dict[str, tuple[Finding, ...]]:
    """Return what was measured last, in the order of the catalogue."""
    raw = json.loads(file.read_text(encoding="utf-8"))
    return {name: tuple(Finding(**one) for one in raw.get(name, ())) for name in FAULTS}
