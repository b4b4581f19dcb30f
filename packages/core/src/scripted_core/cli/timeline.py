"""What a timeline shows of a running script: the newest iterations, and every request's last state."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from scripted_core.cli.palette import ENDED
from scripted_core.trace import RequestProgress, RequestState, StepTrace

_KEPT_COLUMNS = 512
"""Wider than any terminal; older iterations are forgotten here."""
_RATE_WINDOW_S = 1.0


@dataclass
class Row:
    """One request as it was last seen."""

    rid: str
    state: RequestState
    last_step: int
    progress: RequestProgress | None

    @property
    def ended(self) -> bool:
        """Whether it is over."""
        return self.state in ENDED


class Timeline:
    """Takes iterations in order; some may be missing between two (``None`` stands for a gap)."""

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.columns: deque[StepTrace | None] = deque(maxlen=_KEPT_COLUMNS)
        self.rows: dict[str, Row] = {}
        self.states_seen: set[RequestState] = set()
        self.last: StepTrace | None = None
        self.last_posted: StepTrace | None = None
        self._clock = clock
        self._samples: deque[tuple[float, int]] = deque()

    def add(self, step: StepTrace) -> None:
        """One more iteration."""
        if self.last is not None and step.step > self.last.step + 1:
            self.columns.append(None)
        self.columns.append(step)
        self.last = step
        if step.operations:
            self.last_posted = step
        for rid, state in step.states.items():
            row = self.rows.get(rid)
            if row is None:
                self.rows[rid] = Row(rid, state, step.step, step.progress.get(rid))
            else:
                row.state, row.last_step = state, step.step
                row.progress = step.progress.get(rid, row.progress)
            self.states_seen.add(state)

    def add_all(self, steps: Iterable[StepTrace]) -> None:
        """Several iterations."""
        for step in steps:
            self.add(step)

    def rate(self) -> float | None:
        """Iterations a second over about the last second; ``None`` until two looks were taken."""
        now, step = self._clock(), self.last.step if self.last is not None else 0
        self._samples.append((now, step))
        while len(self._samples) > 2 and now - self._samples[1][0] >= _RATE_WINDOW_S:
            self._samples.popleft()
        then, before = self._samples[0]
        return (step - before) / (now - then) if now > then else None

    def shown_rows(self, limit: int) -> tuple[list[Row], list[Row]]:
        """Rows to show, in order of arrival, and those that there is no room for.

        Live requests go first, then those that ended last.
        """
        rows = list(self.rows.values())
        if len(rows) <= limit:
            return rows, []
        order = sorted(range(len(rows)), key=lambda i: (rows[i].ended, -rows[i].last_step, i))
        chosen = set(order[:limit])
        shown = [row for i, row in enumerate(rows) if i in chosen]
        return shown, [row for i, row in enumerate(rows) if i not in chosen]
