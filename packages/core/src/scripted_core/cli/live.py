"""The live view: a timeline that is drawn anew while the script runs, and stays at the end."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from scripted_core.cli.picture import draw
from scripted_core.cli.results import Heading, Ran
from scripted_core.cli.run_views import print_lines
from scripted_core.cli.text import counted
from scripted_core.cli.timeline import Timeline
from scripted_core.cli.verdict import heading_line, left_out_line, verdict_lines
from scripted_core.trace import RequestState, StepListener, StepTrace

_INTERVAL_S = 0.1
_COST_SHARE = 20
"""Between two drawings passes at least this many times what one costs."""
_FINAL_ROWS = 60


class LiveView:
    """Draws on a terminal; where nothing can move (``moves`` is False), only the final picture.

    ``slow_s`` replays a script after its end with so many seconds between two iterations, in place
    of showing it while it runs.
    """

    def __init__(
        self,
        console: Console,
        *,
        moves: bool = True,
        slow_s: float = 0.0,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._console = console
        self._moves = moves
        self._slow_s = slow_s
        self._clock = clock
        self._sleep = sleep
        self._heading: Heading | None = None
        self._timeline = Timeline(clock=clock)
        self._live: Live | None = None
        self._began_at = 0.0
        self._next_at = 0.0
        self.drawings = 0

    def left_out(self, name: str, reason: str, path: Path) -> None:
        """A line on stdout."""
        print_lines(self._console, [left_out_line(name, reason, path)])

    def starting(self, engine: str) -> AbstractContextManager[object]:
        """A spinner: a server takes its time."""
        return self._console.status(f"starting {engine} ...")

    def begin(self, heading: Heading) -> StepListener | None:
        """Start drawing."""
        self._heading = heading
        self._timeline = Timeline(clock=self._clock)
        self._began_at, self._next_at = self._clock(), 0.0
        if not self._moves or self._slow_s:
            return None
        self._start()
        return self._on_step

    def end(self, result: Ran) -> None:
        """Leave the final picture and the verdict behind."""
        took_s = self._clock() - self._began_at
        if self._slow_s and self._moves:
            self._replay(result)
        self._stop()
        # What was streamed may have gaps; the result has none.
        self._timeline = Timeline(clock=self._clock)
        self._timeline.add_all(result.trace)
        print_lines(self._console, [heading_line(result.heading)])
        if result.trace:
            self._print_picture(len(result.trace) / took_s if took_s > 0 else None)
        print_lines(self._console, verdict_lines(result))
        self._heading = None

    def interrupted(self) -> None:
        """Leave the last picture behind, and the terminal as it was."""
        self._stop()
        if self._heading is None:
            return
        print_lines(self._console, [heading_line(self._heading)])
        last = self._timeline.last
        if last is not None:
            self._print_picture(None)
            print_lines(
                self._console, [Text(f"interrupted after {counted(last.step, 'iteration')}")]
            )
        self._heading = None

    # -- drawing -------------------------------------------------------------------------------

    def _on_step(self, step: StepTrace) -> None:
        self._timeline.add(step)
        now = self._clock()
        if now < self._next_at:
            return
        self._refresh()
        drawn_at = self._clock()
        self._next_at = drawn_at + max(_INTERVAL_S, _COST_SHARE * (drawn_at - now))

    def _start(self) -> None:
        self._live = Live(
            console=self._console, auto_refresh=False, transient=True, vertical_overflow="crop"
        )
        self._live.start()

    def _stop(self) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None

    def _refresh(self) -> None:
        assert self._live is not None
        assert self._heading is not None
        self.drawings += 1
        heading = heading_line(self._heading)
        heading.no_wrap = True
        lines = draw(
            self._timeline,
            width=self._console.width,
            height=self._console.height - 2,
            rate=None if self._slow_s else self._timeline.rate(),
            legend=tuple(RequestState),
        )
        self._live.update(Group(heading, *lines), refresh=True)

    def _replay(self, result: Ran) -> None:
        self._start()
        for step in result.trace:
            self._timeline.add(step)
            self._refresh()
            self._sleep(self._slow_s)

    def _print_picture(self, rate: float | None) -> None:
        rows = self._timeline.rows
        height = None if len(rows) <= _FINAL_ROWS else _FINAL_ROWS
        lines = draw(
            self._timeline, width=self._console.width, height=height, rate=rate, final=True
        )
        print_lines(self._console, lines)
