"""What a shard's run leaves: lines on the terminal, a folder of results, a summary for GitHub."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import typer

from scripted_registry.ci.junit import junit_xml
from scripted_registry.ci.run import ShardOutcome, report_log_path
from scripted_registry.ci.summary import markdown, terminal_lines
from scripted_registry.errors import ConfigError

SUMMARY_VARIABLE = "GITHUB_STEP_SUMMARY"
"""Where GitHub Actions takes a step's summary from, in Markdown; steps append to it."""


def prepare_folder(folder: Path) -> None:
    """Make the folder of results before anything runs; `ConfigError` when that cannot be."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        reason = error.strerror or str(error)
    else:
        if os.access(folder, os.W_OK):
            return
        reason = "it cannot be written to"
    raise ConfigError(
        f"--output {folder}: {reason}", hint="name a folder that is there or can be made"
    )


def publish(
    outcome: ShardOutcome, *, scratch: Path, folder: Path | None, summary: str | None
) -> None:
    """Tell on the terminal, and write into `folder` and to the file `summary`.

    In `folder`: `NAME.xml` (JUnit), `NAME.md` and `NAME.jsonl`, the report log of the first attempt;
    those of retries are `NAME.retry-N.jsonl`. NAME is the suite with the shard.
    """
    for line in terminal_lines(outcome):
        typer.echo(line)
    text = markdown(outcome)
    if summary:
        _append(Path(summary), text)
    if folder is None:
        return
    name = result_name(outcome)
    xml = junit_xml(outcome.results, suite=outcome.plan.stage.suite, wall_s=outcome.wall_s)
    (folder / f"{name}.xml").write_bytes(xml)
    (folder / f"{name}.md").write_text(text, encoding="utf-8")
    for attempt in range(1 + outcome.plan.retries):
        log = report_log_path(scratch, attempt)
        if log.is_file():
            retry = f".retry-{attempt}" if attempt else ""
            shutil.copyfile(log, folder / f"{name}{retry}.jsonl")


def _append(summary: Path, text: str) -> None:
    try:
        with summary.open("a", encoding="utf-8") as file:
            file.write(f"{text}\n")
    except OSError as error:  # what was run counts, whatever became of the page about it
        typer.echo(f"{SUMMARY_VARIABLE}: {summary} cannot be written: {error.strerror}", err=True)


def result_name(outcome: ShardOutcome) -> str:
    """`unit-test-cpu-1-of-2`."""
    plan = outcome.plan
    nightly = "-nightly" if plan.nightly else ""
    return f"{plan.stage.suite}{nightly}-{plan.shard.index}-of-{plan.shard.of}"
