"""`python -m scripted_reference.faults`: which scripts find which seeded fault.

Exit status 0 when at least nine in ten are found and no script raises an alarm without a fault, 1
otherwise, 2 for a mistake in the arguments.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, NoReturn

import typer
from rich.console import Console
from rich.progress import Progress
from scripted_registry.errors import ConfigError

from scripted_reference.faults import measure
from scripted_reference.faults.catalogue import FAULTS, fault_named
from scripted_reference.faults.measure import FalseAlarm, Finding, Findings
from scripted_reference.faults.portable import portable_scripts
from scripted_reference.faults.table import DOCS_FILE, written_into
from scripted_reference.faults.trial import Variant, variants

_FAILED = 1
_USAGE = 2


def main(
    list_only: Annotated[
        bool, typer.Option("--list", help="Name the faults and what they do; run nothing.")
    ] = False,
    only: Annotated[
        list[str] | None, typer.Option(help="Look for this fault only; may be repeated.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    write_docs: Annotated[
        bool, typer.Option("--write-docs", help=f"Write the table of {DOCS_FILE}.")
    ] = False,
    scripts: Annotated[
        Path | None,
        typer.Option(help="The scripts: a file or a folder. Default: those of each fault's area."),
    ] = None,
    scripts_each: Annotated[
        int, typer.Option(min=1, help="Stop looking for a fault when so many scripts found it.")
    ] = measure.SCRIPTS_EACH,
) -> None:
    """Start the engine with one seeded fault after the other, and see which scripts find it."""
    try:
        names = [fault_named(name).name for name in only] if only else list(FAULTS)
        if list_only:
            _print_list(names, as_json=as_json)
            return
        if write_docs and only:
            raise ConfigError("--write-docs needs every fault", hint="leave --only out")
        if write_docs and not DOCS_FILE.is_file():
            raise ConfigError(
                f"there is no {DOCS_FILE} here", hint="run it from the root of the repository"
            )
        folder_of = {name: scripts or FAULTS[name].area.scripts for name in names}
        runs = {
            folder: list(variants(portable_scripts(folder)))
            for folder in dict.fromkeys(folder_of.values())
        }
        runs_of = {name: runs[folder] for name, folder in folder_of.items()}
        everything = [run for some in runs.values() for run in some]
        findings, alarms = _measure(runs_of, everything, scripts_each=scripts_each)
        if write_docs:
            document = written_into(DOCS_FILE.read_text(encoding="utf-8"), findings)
            DOCS_FILE.write_text(document, encoding="utf-8")
            measure.save(findings)
    except ConfigError as error:
        _refuse(error)
    _print_findings(findings, alarms, as_json=as_json)
    if alarms or measure.share_found(findings) < measure.REQUIRED_SHARE:
        raise typer.Exit(_FAILED)


def _measure(
    runs_of: Mapping[str, Sequence[Variant]], everything: Sequence[Variant], *, scripts_each: int
) -> tuple[Findings, list[FalseAlarm]]:
    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        sound = progress.add_task("without a fault", total=len(everything))
        broken = progress.add_task("with one", total=len(runs_of))
        alarms = measure.false_alarms(everything, tick=lambda: progress.advance(sound))
        findings: dict[str, list[Finding]] = {}
        for name, runs in runs_of.items():
            progress.update(broken, description=name)
            findings[name] = measure.findings_of(name, runs, scripts_each=scripts_each)
            progress.advance(broken)
    return findings, alarms


def _print_list(names: Sequence[str], *, as_json: bool) -> None:
    if as_json:
        entries = [
            {
                "name": fault.name,
                "area": fault.area.value,
                "summary": fault.summary,
                "place": fault.place,
                "stands_for": fault.stands_for,
            }
            for fault in map(fault_named, names)
        ]
        print(json.dumps(entries, indent=1))
        return
    width = max(map(len, names))
    for name in names:
        print(f"{name:{width}}  {FAULTS[name].summary}")


def _print_findings(findings: Findings, alarms: Sequence[FalseAlarm], *, as_json: bool) -> None:
    if as_json:
        print(
            json.dumps(
                {
                    "found": {
                        name: [asdict(one) for one in found] for name, found in findings.items()
                    },
                    "share_found": measure.share_found(findings),
                    "false_alarms": [str(alarm) for alarm in alarms],
                },
                indent=1,
            )
        )
        return
    width = max(map(len, findings))
    for name, found in findings.items():
        if not found:
            print(f"{name:{width}}  NOT FOUND  {FAULTS[name].out_of_reach}")
        for i, one in enumerate(found):
            print(f"{name if i == 0 else '':{width}}  {one.alarm}  {one.label}")
    for alarm in alarms:
        print(f"FALSE ALARM  {alarm}")
    number = sum(map(bool, findings.values()))
    print(
        f"{number} of {len(findings)} faults found ({measure.share_found(findings):.0%}), "
        f"{len(alarms)} false alarms"
    )


def _refuse(error: ConfigError) -> NoReturn:
    print(f"error: {error}", file=sys.stderr)
    raise typer.Exit(_USAGE)


if __name__ == "__main__":
    typer.run(main)
