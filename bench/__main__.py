"""The command line: ``python -m bench [--backend reference|sglang] [--only PATTERN] [--json FILE]``."""

from __future__ import annotations

import os
from collections.abc import Sequence
from enum import StrEnum
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from scripted_core.errors import ScriptedError
from scripted_core.sessions.base import make_config

from bench.parts import Part
from bench.results import Result, print_table, write_json


class Backend(StrEnum):
    """The engines that are measured."""

    REFERENCE = "reference"
    SGLANG = "sglang"


def main(
    backend: Annotated[
        Backend, typer.Option("--backend", "--engine", help="The engine to measure.")
    ] = Backend.REFERENCE,
    only: Annotated[
        str, typer.Option(help="Rows whose name contains this; * and ? as in a file name.")
    ] = "",
    part: Annotated[
        list[Part] | None, typer.Option(help="SGLang: only this comparison; repeat it for two.")
    ] = None,
    long: Annotated[
        bool,
        typer.Option(
            help="SGLang: also what takes its own harness minutes, its shutdown above all."
        ),
    ] = False,
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Also write the rows to this file.")
    ] = None,
) -> None:
    """Measure, and print medians beside their targets. The exit code says nothing of the targets."""
    notes, console = Console(stderr=True), Console()
    try:
        make_config(backend.value, {})
    except ScriptedError as error:
        notes.print(str(error), markup=False)
        raise typer.Exit(2) from error
    load, _, _ = os.getloadavg()
    notes.print(f"load average {load:.1f}" + (": not a quiet machine" if load > 1 else ""))
    if backend is Backend.REFERENCE:
        results = _reference(only, notes)
    else:
        results = _sglang(part or list(Part), only, notes, long=long)
    if not results:
        notes.print(f"no row is named like {only!r}", markup=False)
        raise typer.Exit(2)
    print_table(results, console)
    if json_file is not None:
        write_json(results, json_file)


def _reference(only: str, notes: Console) -> list[Result]:
    from bench.reference import MEASUREMENTS
    from bench.reference_server import rows
    from bench.topologies import rows as topology_rows

    results = []
    for measurement in MEASUREMENTS:
        if _is_named(measurement.name, only):
            notes.print(f"measuring {measurement.name}", markup=False)
            results.append(measurement.result())
    for name, measured in (topology_rows() | rows()).items():
        if _is_named(name, only):
            notes.print(f"measuring {name}", markup=False)
            results.append(measured())
    return results


def _sglang(parts: Sequence[Part], only: str, notes: Console, *, long: bool) -> list[Result]:
    from bench.servers import end_orderly
    from bench.sglang import measure

    end_orderly()
    return measure(
        parts,
        report=lambda text: notes.print(text, markup=False, soft_wrap=True),
        wanted=lambda name: _is_named(name, only),
        long=long,
    )


def _is_named(name: str, pattern: str) -> bool:
    return fnmatchcase(name.lower(), f"*{pattern.lower()}*")


if __name__ == "__main__":
    typer.run(main)
