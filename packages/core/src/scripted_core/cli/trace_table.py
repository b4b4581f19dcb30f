"""What happened in a script, as a table: an iteration a row, a request a column."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from scripted_core.cli.execute import Ran, RunOutcome
from scripted_core.trace import RequestState, StepTrace

_PIPE_WIDTH = 240
_STATE_WIDTH = max(len(state) for state in RequestState)
_STYLES = {
    RequestState.WAITING: "yellow",
    RequestState.CHUNK: "blue",
    RequestState.PREFILL: "bold blue",
    RequestState.DECODE: "green",
    RequestState.RUNNING: "green dim",
    RequestState.RETRACTED: "magenta",
    RequestState.PAUSED: "cyan",
    RequestState.FINISHED: "bold green",
    RequestState.ABORTED: "bold red",
}
_OUTCOME_STYLES = {
    RunOutcome.PASSED: "bold green",
    RunOutcome.FAILED: "bold red",
    RunOutcome.SKIPPED: "bold yellow",
    RunOutcome.XFAILED: "bold yellow",
}


class TracePrinter:
    """Prints results to stdout: in colours to a terminal, as plain ASCII to anything else."""

    def __init__(self, console: Console | None = None) -> None:
        console = console or Console(highlight=False)
        if not console.is_terminal and "COLUMNS" not in os.environ:
            console = Console(file=console.file, width=_PIPE_WIDTH, highlight=False)
        self._console = console

    def left_out(self, name: str, reason: str, path: Path) -> None:
        """A script that only pytest can run."""
        self._console.print(
            Text(f"{name} is left out: {reason}; run it with: pytest {path.name}::{name}")
        )

    def script(self, result: Ran) -> None:
        """One script: heading, iterations, and what was checked or what went wrong."""
        self._console.print(
            Text.assemble(
                (result.name, "bold"),
                f" on {result.engine} ({result.mode.replace('_', '-')}), seed {result.seed}",
            )
        )
        if result.trace:
            self._console.print(self._table(result.trace))
        if result.text and result.outcome is RunOutcome.FAILED:
            self._console.print(Text(result.text), soft_wrap=True)
        self._console.print(_verdict(result), soft_wrap=True)

    def _table(self, trace: Sequence[StepTrace]) -> Table:
        plain = not self._console.is_terminal
        table = Table(
            box=box.ASCII2 if plain else box.SIMPLE_HEAD,
            show_edge=plain,
            padding=(0, 1) if plain else 0,
        )
        # Only what was posted gives way on a narrow terminal.
        table.add_column("iteration", justify="right", no_wrap=True)
        table.add_column("batch", no_wrap=True)
        rids = list(dict.fromkeys(rid for step in trace for rid in step.states))
        for rid in rids:
            table.add_column(Text(rid, overflow="fold"), min_width=_STATE_WIDTH)
        table.add_column("KV free", justify="right", no_wrap=True)
        table.add_column("posted before it", overflow="fold")
        for step in trace:
            table.add_row(
                str(step.step),
                Text(step.mode),
                *(_state(step.states.get(rid)) for rid in rids),
                f"{step.free_pages}/{step.total_pages}",
                Text("; ".join(step.operations)),
            )
        return table


def _state(state: RequestState | None) -> Text:
    return Text("") if state is None else Text(state.value, style=_STYLES[state])


def _verdict(result: Ran) -> Text:
    iterations = f"{result.steps} iteration{'' if result.steps == 1 else 's'}"
    verdict = Text.assemble((result.outcome.value, _OUTCOME_STYLES[result.outcome]))
    if result.outcome is RunOutcome.PASSED:
        invariants = "held after each" if result.invariants_checked else "not checked"
        return verdict.append(f": {iterations}, invariants {invariants}, events {result.digest}")
    if result.outcome is RunOutcome.FAILED:
        return verdict.append(f" after {iterations}")
    return verdict.append(f": {result.text}")
