"""The picture of a timeline: requests as rows, iterations as columns, the newest at the right."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import groupby

from rich.text import Text

from scripted_core.cli.palette import LOOKS
from scripted_core.cli.timeline import Row, Timeline
from scripted_core.trace import RequestState, StepTrace

_RULER_EVERY = 10
_FEWEST_CELLS = 8
_FEWEST_ROWS = 3
_WIDE_ENOUGH_FOR_WORDS = 70
_STATE_WIDTH = max(len(state) for state in RequestState)
_POOL_PARTS = (
    ("used", "#", "black on blue"),
    ("evictable", "=", "black on cyan"),
    ("held", "x", "white on magenta"),
    ("free", ".", "dim"),
)


def draw(
    timeline: Timeline,
    *,
    width: int,
    height: int | None = None,
    rate: float | None = None,
    legend: Sequence[RequestState] | None = None,
    final: bool = False,
) -> list[Text]:
    """Lines of at most ``width`` cells; no more than ``height`` of them unless that is tiny.

    ``rate`` is iterations a second, left out when unknown. ``legend`` names the states to explain:
    by default those that were seen. A ``final`` picture says what has scrolled out of it.
    """
    last = timeline.last
    if last is None:
        return [Text("no iteration has ended yet", style="dim")]
    top = [_status(last, rate), _posted(timeline), _gauge(last, width)]
    shown_states = [state for state in RequestState if state in (legend or timeline.states_seen)]
    bottom = _legend(shown_states, width)
    limit = len(timeline.rows)
    if height is not None:
        room = height - len(top) - len(bottom) - 1 - final  # the ruler, what scrolled out
        if limit > room:
            limit = max(room - 1, _FEWEST_ROWS)  # one line tells of the others
    rows, others = timeline.shown_rows(limit)
    grid = _Grid(timeline, rows, width)
    lines = [*top, grid.ruler(), *(grid.line(row) for row in rows)]
    if others:
        lines.append(_others(others))
    if final and grid.scrolled_out:
        lines.append(Text(f"iterations 1 to {grid.scrolled_out:,}: see --view table", style="dim"))
    lines += bottom
    for line in lines:
        line.truncate(width, overflow="ellipsis")
        line.no_wrap = True
    return lines


class _Grid:
    """The widths of the columns of one picture."""

    def __init__(self, timeline: Timeline, rows: Sequence[Row], width: int) -> None:
        wide = width >= _WIDE_ENOUGH_FOR_WORDS
        self._state_width = _STATE_WIDTH if wide else 1
        self._progress_width = max((len(_progress(row)) for row in rows), default=0)
        longest = max((len(row.rid) for row in rows), default=0)
        taken = self._progress_width + self._state_width + 3
        self._name_width = min(longest, max(width // 5, 6), max(width - taken - _FEWEST_CELLS, 4))
        cells = max(width - self._name_width - taken, _FEWEST_CELLS)
        self._columns = list(timeline.columns)[-cells:]
        self._is_wide = wide

    @property
    def scrolled_out(self) -> int:
        """Number of the last iteration that is too old for the picture; 0 when all are in it."""
        first = next(column for column in self._columns if column is not None)
        return first.step - 1

    def line(self, row: Row) -> Text:
        look = LOOKS[row.state]
        name = Text(row.rid)
        name.truncate(self._name_width, overflow="ellipsis", pad=True)
        word = row.state.value if self._is_wide else look.letter
        line = Text.assemble(
            name,
            " " + _progress(row).rjust(self._progress_width) + " ",
            (word.ljust(self._state_width), look.word_style),
            " ",
        )
        for state, run in groupby(_state_of(row.rid, column) for column in self._columns):
            length = sum(1 for _ in run)
            if state is None:
                line.append(" " * length)
            else:
                line.append(LOOKS[state].letter * length, style=LOOKS[state].cell_style)
        return line

    def ruler(self) -> Text:
        indent = self._name_width + self._progress_width + self._state_width + 3
        marks = [" "] * (indent + len(self._columns))
        for i, column in enumerate(self._columns):
            if column is None:
                marks[indent + i] = "~"
            elif column.step % _RULER_EVERY == 0 or column.step == 1:
                label = str(column.step)
                at = indent + i + 1 - len(label)
                if at >= 0 and all(mark == " " for mark in marks[at : indent + i + 1]):
                    marks[at : indent + i + 1] = label
        heading = "request"
        if indent > len(heading) and all(mark == " " for mark in marks[: len(heading) + 1]):
            marks[: len(heading)] = heading
        return Text("".join(marks), style="dim")


def _state_of(rid: str, column: StepTrace | None) -> RequestState | None:
    return None if column is None else column.states.get(rid)


def _progress(row: Row) -> str:
    """Prompt tokens computed of all, then output tokens: ``128/253 +4``."""
    seen = row.progress
    return "" if seen is None else f"{seen.computed_tokens}/{seen.prompt_len} +{seen.output_len}"


def _status(step: StepTrace, rate: float | None) -> Text:
    line = Text.assemble("iteration ", (f"{step.step:,}", "bold"))
    if rate is not None:
        line.append(f"  {rate:,.0f} it/s")
    if step.batch_rids:
        line.append(f"  batch: {step.mode} of {len(step.batch_rids)}: {', '.join(step.batch_rids)}")
    else:
        line.append("  no batch", style="dim")
    return line


def _posted(timeline: Timeline) -> Text:
    posted = timeline.last_posted
    if posted is None:
        return Text("nothing posted yet", style="dim")
    return Text(f"posted before {posted.step:,}: {'; '.join(posted.operations)}")


def _gauge(step: StepTrace, width: int) -> Text:
    parts = {
        "used": step.used_pages,
        "evictable": step.evictable_pages,
        "held": step.held_pages,
        "free": step.free_pages,
    }
    line = Text("KV pool ")
    cells = max(min(width // 3, 40), 8)
    total = max(sum(parts.values()), 1)
    drawn = pages = 0
    for name, mark, style in _POOL_PARTS:
        pages += parts[name]
        end = round(cells * pages / total)
        if parts[name] and end == drawn and end < cells:
            end += 1  # what is there is seen, however little it is
        line.append(mark * max(end - drawn, 0), style=style)
        drawn = max(end, drawn)
    for name, mark, _ in _POOL_PARTS:
        if parts[name]:
            line.append(f"  {mark} {name} {parts[name]:,}")
    return line.append(f"  of {step.total_pages:,} pages")


def _others(rows: Sequence[Row]) -> Text:
    counts = Counter(row.state for row in rows)
    words = ", ".join(f"{counts[state]} {state}" for state in RequestState if counts[state])
    return Text(f"and {len(rows)} more: {words}", style="dim")


def _legend(states: Sequence[RequestState], width: int) -> list[Text]:
    lines = [Text()]
    for state in states:
        look = LOOKS[state]
        entry = Text.assemble((look.letter, look.cell_style), f" {state.value}")
        if lines[-1].cell_len + entry.cell_len + 2 > width and lines[-1].cell_len:
            lines.append(Text())
        lines[-1].append_text(entry).append("  ")
    return lines
