"""`record`: the times of earlier runs, out of their report logs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def record(
    logs: Annotated[
        list[Path],
        typer.Argument(metavar="LOGS...", help="Report logs: files that pytest-reportlog wrote."),
    ],
    stage: Annotated[
        str, typer.Option("--stage", metavar="S", help="The stage that they are runs of.")
    ],
    runner: Annotated[
        str | None,
        typer.Option("--runner", metavar="R", help="Which, of a stage that is on several."),
    ] = None,
) -> None:
    """Remember in `ci/timings.json` how long the tests of a stage took.

    Of each test the last seven times are kept, and their median counts; a test that failed is left
    out. `scripted ci run --record` does the same at once. Afterwards `scripted ci register` writes
    the manifest anew, which says how many shards a stage needs.

    Example: `scripted ci record --stage unit ci-results/unit-test-cpu-*.jsonl`

    Exit status: 0; 2 when a log or the stage is unknown, and then nothing is remembered.
    """
    from scripted_registry.ci.errors import ReportLogError
    from scripted_registry.ci.manifest import MANIFEST_PATH, TIMINGS_PATH, read_manifest
    from scripted_registry.ci.record import record_logs
    from scripted_registry.ci.results import read_report_log
    from scripted_registry.ci.timings import split_nodeid

    root = Path.cwd()
    found = read_manifest(root / MANIFEST_PATH).stage(stage, runner=runner)
    read = [read_report_log(path) for path in logs]
    files = {file.path for file in found.files}
    tests = [nodeid for log in read for nodeid in log.attempts]
    foreign = {split_nodeid(nodeid)[0] for nodeid in tests} - files
    foreign = {path for path in foreign if (root / path).exists()}  # what is gone is forgotten
    if foreign:
        raise ReportLogError(
            f"the logs are not of stage {found.name!r}: nobody registered {', '.join(sorted(foreign))} "
            "for it",
            hint="name the stage that they are of with --stage",
        )
    count = record_logs(root / TIMINGS_PATH, suite=found.suite, logs=read)
    typer.echo(f"{TIMINGS_PATH.as_posix()}: {count} tests of {found.name} on {found.runner}")
