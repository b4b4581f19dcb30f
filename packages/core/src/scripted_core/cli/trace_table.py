"""What happened in a script, as a table: an iteration a row, a request a column.

Where the requests need more room than there is, each has one letter instead; where even that is too
much, they are counted by state.
"""

from __future__ import annotations

import textwrap
from collections import Counter
from collections.abc import Iterator, Sequence

from rich.text import Text

from scripted_core.cli.palette import LOOKS
from scripted_core.cli.text import printable
from scripted_core.trace import RequestState, StepTrace

_STATE_WIDTH = max(len(state) for state in RequestState)
_LEAST_POSTED_WIDTH = 16
_LONGEST_POSTED = 400
_MOST_LETTERS = 100
_BETWEEN = " | "
_EDGES = 4  # "| " and " |"


def table_lines(trace: Sequence[StepTrace], *, width: int) -> Iterator[Text]:
    """The table, line by line, at most ``width`` cells wide if the terminal is not very narrow."""
    rids = list(dict.fromkeys(rid for step in trace for rid in step.states))
    posted = [_posted(step) for step in trace]
    first = [
        _Column("iteration", [str(step.step) for step in trace], right=True),
        _Column("batch", [step.mode for step in trace]),
    ]
    last = _Column(
        "KV free", [f"{step.free_pages}/{step.total_pages}" for step in trace], right=True
    )
    longest = max([len("posted before it"), *(len(text) for text in posted)])
    room = width - _EDGES - sum(len(_BETWEEN) + column.width for column in (*first, last))
    room_for_states = room - min(longest, _LEAST_POSTED_WIDTH)
    shape = _shape(trace, rids, room_for_states)
    if isinstance(shape, _Letters):
        yield from _key(rids, width)
    taken = sum(column.width + len(_BETWEEN) for column in shape.columns)
    posted_width = min(longest, max(room - taken, _LEAST_POSTED_WIDTH))
    layout = _Layout([*first, *shape.columns, last], posted_width)
    yield layout.rule()
    yield layout.headings()
    yield layout.rule()
    for i, step in enumerate(trace):
        before = [Text(column.cells[i]) for column in first]
        yield from layout.row([*before, *shape.cells(step), Text(last.cells[i])], posted[i])
    yield layout.rule()


class _Column:
    def __init__(
        self, heading: str, cells: list[str], *, right: bool = False, least: int = 0
    ) -> None:
        self.heading = heading
        self.cells = cells
        self.right = right
        self.width = max([least, len(heading), *(len(cell) for cell in cells)])


class _Words:
    """A column for each request, with the word for its state."""

    def __init__(self, rids: Sequence[str]) -> None:
        self._rids = rids
        self.columns = [_Column(rid, [], least=_STATE_WIDTH) for rid in rids]

    def cells(self, step: StepTrace) -> list[Text]:
        states = [step.states.get(rid) for rid in self._rids]
        return [
            Text() if state is None else Text(state.value, style=LOOKS[state].word_style)
            for state in states
        ]


class _Letters:
    """One column, with a letter for each request."""

    def __init__(self, rids: Sequence[str]) -> None:
        self._rids = rids
        self.columns = [_Column("requests", [], least=len(rids))]

    def cells(self, step: StepTrace) -> list[Text]:
        line = Text()
        for rid in self._rids:
            state = step.states.get(rid)
            if state is None:
                line.append(" ")
            else:
                line.append(LOOKS[state].letter, style=LOOKS[state].word_style)
        return [line]


class _Counts:
    """One column, with how many requests are in each state."""

    def __init__(self, trace: Sequence[StepTrace]) -> None:
        self.columns = [_Column("requests", [_counts(step) for step in trace])]

    def cells(self, step: StepTrace) -> list[Text]:
        return [Text(_counts(step))]


def _counts(step: StepTrace) -> str:
    counts = Counter(step.states.values())
    return ", ".join(f"{counts[state]} {state}" for state in RequestState if counts[state])


def _shape(
    trace: Sequence[StepTrace], rids: Sequence[str], room: int
) -> _Words | _Letters | _Counts:
    words = _Words(rids)
    if sum(column.width + len(_BETWEEN) for column in words.columns) <= room:
        return words
    if len(rids) <= min(_MOST_LETTERS, max(room - len(_BETWEEN), len("requests"))):
        return _Letters(rids)
    return _Counts(trace)


class _Layout:
    """Columns of fixed width, and at the end what was posted, wrapped where it has to be."""

    def __init__(self, columns: Sequence[_Column], posted_width: int) -> None:
        self._columns = columns
        self._posted_width = posted_width

    def rule(self) -> Text:
        widths = [*(column.width for column in self._columns), self._posted_width]
        return Text("+" + "+".join("-" * (width + 2) for width in widths) + "+")

    def headings(self) -> Text:
        return self._line([Text(column.heading) for column in self._columns], "posted before it")

    def row(self, cells: Sequence[Text], posted: str) -> Iterator[Text]:
        first, *others = textwrap.wrap(posted, self._posted_width) or [""]
        yield self._line(cells, first)
        for other in others:
            yield self._line([Text()] * len(self._columns), other)

    def _line(self, cells: Sequence[Text], posted: str) -> Text:
        line = Text("| ")
        for column, cell in zip(self._columns, cells, strict=True):
            padding = " " * (column.width - cell.cell_len)
            line.append_text(Text(padding) + cell if column.right else cell + Text(padding))
            line.append(_BETWEEN)
        return line.append(posted.ljust(self._posted_width)).append(" |")


def _posted(step: StepTrace) -> str:
    text = printable("; ".join(step.operations))
    return text if len(text) <= _LONGEST_POSTED else f"{text[:_LONGEST_POSTED]}..."


def _key(rids: Sequence[str], width: int) -> Iterator[Text]:
    yield from _wrapped("requests, from left to right: " + ", ".join(rids), width)
    letters = ", ".join(f"{look.letter} {state.value}" for state, look in LOOKS.items())
    yield from _wrapped(letters, width)


def _wrapped(text: str, width: int) -> Iterator[Text]:
    yield from map(Text, textwrap.wrap(text, max(width, 20)))
