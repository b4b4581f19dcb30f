"""How a campaign goes: on a terminal all the time, in a pipe a line a minute to the error output."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.live import Live
from rich.table import Table

from scripted_explore.campaign import Outcome, merged
from scripted_explore.finding import Finding
from scripted_explore.sometimes import Sometimes

_PER_SECOND = 4
_LINE_EVERY_S = 60.0


class LiveView:
    """A context manager around a campaign; ``update`` may be called from any thread."""

    def __init__(self, *, backend: str, topologies: Sequence[str]) -> None:
        self._console = Console(soft_wrap=True)
        self._title = f"{backend}: {', '.join(topologies)}"
        self._outcomes: dict[int, Outcome] = {}
        self._lock = threading.Lock()
        self._started = self._last_line = time.monotonic()
        self._live = (
            Live(console=self._console, get_renderable=self._render, refresh_per_second=_PER_SECOND)
            if self._console.is_terminal
            else None
        )

    def __enter__(self) -> LiveView:
        self._started = self._last_line = time.monotonic()
        if self._live is not None:
            self._live.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.__exit__(None, None, None)

    def update(self, place: int, outcome: Outcome) -> None:
        """What a task has come to so far."""
        with self._lock:
            self._outcomes[place] = outcome
            is_due = time.monotonic() - self._last_line >= _LINE_EVERY_S
            if is_due:
                self._last_line = time.monotonic()
        if is_due and self._live is None:
            print(self._so_far(self._whole()), file=sys.stderr, flush=True)

    def summary(self, outcome: Outcome) -> None:
        """What the whole campaign has come to."""
        self._console.print(self._so_far(outcome))

    def sometimes(self, outcome: Outcome, missed: Sequence[Sometimes]) -> None:
        """How often each named state was met."""
        for one in Sometimes:
            count = outcome.report.sometimes.get(one.value, 0)
            if count:
                self._console.print(f"  {count:>9,}  {one.value}", highlight=False)
        for one in missed:
            self._console.print(f"      never  {one.value}", style="yellow", highlight=False)

    def finding(self, finding: Finding, path: Path) -> None:
        """One finding, and where its test is."""
        self._console.print(
            f"found: {finding.signature} ({len(finding.program.ops)} operations, "
            f"after {finding.steps:,} iterations)\n  pytest {path} --scripted-backend {finding.backend}",
            style="red",
            markup=False,
            highlight=False,
        )

    def _whole(self) -> Outcome:
        with self._lock:
            return merged(list(self._outcomes.values())) if self._outcomes else Outcome.nothing()

    def _render(self) -> Table:
        whole = self._whole()
        table = Table.grid()
        table.add_row(self._so_far(whole))
        for finding in whole.findings:
            table.add_row(f"[red]{finding.signature}[/red]")
        return table

    def _so_far(self, outcome: Outcome) -> str:
        return _line(self._title, outcome, time.monotonic() - self._started)


def _line(title: str, outcome: Outcome, seconds: float) -> str:
    report = outcome.report
    rate = report.steps / seconds if seconds else 0.0
    found = len(outcome.findings)
    return (
        f"{title}: {report.steps:,} iterations of {outcome.programs:,} programs in {seconds:.0f} s "
        f"({rate:,.0f} a second), {report.requests:,} requests, {len(report.states):,} states and "
        f"{len(report.transitions):,} transitions met, {found} finding{'' if found == 1 else 's'}"
        + (f" (met again {outcome.again} times)" if outcome.again else "")
    )
