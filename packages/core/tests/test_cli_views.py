"""The timeline and the table of a run, on traces that are hard to show."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console
from scripted_core.cli.live import LiveView
from scripted_core.cli.picture import draw
from scripted_core.cli.results import Heading, Ran, RunOutcome
from scripted_core.cli.run_views import PlainView
from scripted_core.cli.timeline import Timeline
from scripted_core.cli.trace_table import table_lines
from scripted_core.trace import ChecksDone, RequestProgress, RequestState, StepTrace
from scripted_registry.ci import register_cpu_ci

register_cpu_ci(est_time=1, stage="unit", runner_config="cpu")

S = RequestState
HEADING = Heading(name="script_a", engine="stub", mode="in_process", seed=0)


def step(n: int, states: dict[str, RequestState], **others: object) -> StepTrace:
    fields: dict[str, object] = {"mode": "decode", "free_pages": 60, "total_pages": 100} | others
    return StepTrace(step=n, states=states, **fields)  # type: ignore[arg-type]


def timeline(*steps: StepTrace) -> Timeline:
    made = Timeline()
    made.add_all(steps)
    return made


def plain(made: Timeline, *, width: int = 100, height: int | None = None) -> list[str]:
    return [line.plain for line in draw(made, width=width, height=height)]


def line_of(lines: list[str], start: str) -> str:
    (found,) = (line for line in lines if line.startswith(start))
    return found


def console(*, width: int = 80, height: int = 24, no_color: bool = False) -> Console:
    return Console(
        file=io.StringIO(),
        force_terminal=True,
        width=width,
        height=height,
        no_color=no_color,
        highlight=False,
        color_system="standard",
        legacy_windows=False,
        _environ={},
    )


def text_of(one: Console) -> str:
    assert isinstance(one.file, io.StringIO)
    return one.file.getvalue()


def test_each_iteration_is_a_letter_and_each_request_a_row() -> None:
    steps = [
        step(1, {"a": S.CHUNK, "b": S.WAITING}, progress={"a": RequestProgress(64, 253, 0)}),
        step(2, {"a": S.PREFILL, "b": S.WAITING}, progress={"a": RequestProgress(253, 253, 1)}),
        step(3, {"a": S.RETRACTED, "b": S.PREFILL}, progress={"a": RequestProgress(128, 253, 4)}),
        step(4, {"a": S.ABORTED, "b": S.DECODE}),
        step(5, {"b": S.FINISHED}),
    ]
    lines = plain(timeline(*steps))
    assert line_of(lines, "a").split() == ["a", "128/253", "+4", "aborted", "cpRX"]
    assert line_of(lines, "b").split() == ["b", "finished", "wwpdF"]


def test_a_gap_in_what_was_streamed_is_a_gap_in_the_picture() -> None:
    lines = plain(timeline(step(1, {"a": S.DECODE}), step(9, {"a": S.DECODE})))
    assert line_of(lines, "a").rstrip().endswith(" d d")
    assert "~" in line_of(lines, "request")


def test_the_gauge_adds_up_to_the_pool() -> None:
    parts = {"free_pages": 50, "evictable_pages": 20, "held_pages": 10}
    line = line_of(plain(timeline(step(1, {}, **parts)), width=120), "KV pool")
    assert "# used 20  = evictable 20  x held 10  . free 50  of 100 pages" in line
    bar = line.split()[2]
    assert [bar.count(mark) for mark in "#=x."] == [8, 8, 4, 20]


@pytest.mark.parametrize("width", [20, 40, 80, 200])
def test_no_line_is_wider_than_the_terminal_and_the_newest_iteration_stays(width: int) -> None:
    rid = "scripted-123-0123456789abcdef"
    progress = {rid: RequestProgress(123_456, 200_000, 999)}
    steps = [
        step(n, {rid: S.DECODE if n < 300 else S.FINISHED}, progress=progress, batch_rids=(rid,))
        for n in range(1, 301)
    ]
    lines = draw(timeline(*steps), width=width, final=True)
    assert max(line.cell_len for line in lines) <= width
    if width >= 40:
        row = next(line.plain for line in lines if line.plain.startswith("scri"))
        assert row.rstrip().endswith("ddF")


def test_a_hundred_requests_fit_the_screen_the_live_ones_first() -> None:
    states = {f"r{n}": S.FINISHED for n in range(60)} | {f"r{n}": S.DECODE for n in range(60, 70)}
    states |= {f"r{n}": S.WAITING for n in range(70, 100)}
    made = timeline(step(1, states))
    lines = plain(made, width=80, height=20)
    assert len(lines) <= 20
    shown = [line.split()[0] for line in lines if line.startswith("r") and "request" not in line]
    assert shown[:10] == [f"r{n}" for n in range(60, 70)]
    assert line_of(lines, "and ").startswith(f"and {100 - len(shown)} more: ")
    assert "60 finished" in line_of(lines, "and ")


def test_ten_thousand_iterations_are_drawn_a_bounded_number_of_times() -> None:
    now = [0.0]

    def clock() -> float:
        now[0] += 0.0005  # each look at the clock costs half a millisecond
        return now[0]

    one = console()
    view = LiveView(one, clock=clock)
    on_step = view.begin(HEADING)
    assert on_step is not None
    for n in range(1, 10_001):
        on_step(step(n, {f"r{k}": S.DECODE for k in range(5)}))
    assert 10 < view.drawings <= now[0] / 0.1 + 1
    view.end(ran(trace=(step(1, {"r0": S.FINISHED}),)))
    assert "1 iteration, invariants held" in text_of(one)


def ran(*, outcome: RunOutcome = RunOutcome.PASSED, **fields: object) -> Ran:
    fields = {"steps": len(fields.get("trace", ())), **fields}  # type: ignore[arg-type]
    return Ran(heading=HEADING, outcome=outcome, invariants_checked=True, **fields)  # type: ignore[arg-type]


def test_the_terminal_gets_its_cursor_back_whether_a_run_ends_or_is_cut_off() -> None:
    for end in (lambda view: view.end(ran()), lambda view: view.interrupted()):
        one = console()
        view = LiveView(one)
        on_step = view.begin(HEADING)
        assert on_step is not None
        on_step(step(1, {"a": S.DECODE}))
        end(view)
        text = text_of(one)
        assert text.rfind("\x1b[?25h") > text.rfind("\x1b[?25l") >= 0


def test_an_interrupted_run_leaves_its_last_picture() -> None:
    one = console()
    view = LiveView(one)
    on_step = view.begin(HEADING)
    assert on_step is not None
    on_step(step(1, {"a": S.DECODE}))
    on_step(step(2, {"a": S.PAUSED}))
    view.interrupted()
    assert text_of(one).rstrip().endswith("interrupted after 2 iterations")
    assert "d" in text_of(one).partition("paused")[2]


def test_a_replay_shows_every_iteration_and_sleeps_between_two() -> None:
    slept: list[float] = []
    one = console()
    view = LiveView(one, slow_s=0.25, sleep=slept.append)
    assert view.begin(HEADING) is None, "the run itself is not watched"
    view.end(ran(trace=tuple(step(n, {"a": S.DECODE}) for n in range(1, 4))))
    assert slept == [0.25] * 3
    assert view.drawings == 3


def test_without_colours_the_letters_remain() -> None:
    one = console(no_color=True)
    view = LiveView(one)
    view.begin(HEADING)
    view.end(ran(trace=(step(1, {"a": S.CHUNK}), step(2, {"a": S.DECODE}))))
    text = text_of(one)
    assert "cd" in text
    assert not any(f"\x1b[{code}" in text for code in ("3", "4", "9", "10"))


def test_what_was_checked_is_said() -> None:
    one = Console(file=io.StringIO(), width=200, highlight=False)
    checks = ChecksDone(("pages", "rows"), 1234, 2, 1)
    PlainView(one, table=False).end(ran(checks=checks, digest="d1"))
    assert text_of(one).splitlines()[1:3] == [
        "checked after each of 1,234 iterations: pages; rows",
        "checked at the end: 2 clients received exactly what the scheduler produced (1 token)",
    ]


@pytest.mark.parametrize(
    ("steps", "verdict"),
    [(None, "failed"), (0, "failed after 0 iterations"), (57, "failed after 57 iterations")],
)
def test_a_script_that_was_cut_off_is_counted_where_the_count_is_known(
    steps: int | None, verdict: str
) -> None:
    one = Console(file=io.StringIO(), width=200, highlight=False)
    PlainView(one, table=False).end(ran(outcome=RunOutcome.FAILED, text="EngineDied", steps=steps))
    assert text_of(one).splitlines()[-1] == verdict


def test_a_very_long_failure_is_cut_and_says_where_the_whole_is() -> None:
    one = Console(file=io.StringIO(), width=200, highlight=False)
    text = "first line\n" + "x" * 500_000 + "\nlast line \udc80 \x1b[2J"
    PlainView(one, table=False).end(ran(outcome=RunOutcome.FAILED, text=text))
    printed = text_of(one)
    assert len(printed) < 13_000
    assert "first line" in printed
    assert r"last line \udc80 \x1b[2J" in printed
    assert "characters left out; with --json" in printed


def test_a_table_that_does_not_fit_has_letters_and_then_counts() -> None:
    few = {"a": S.DECODE, "b": S.WAITING}
    words = [line.plain for line in table_lines([step(1, few)], width=100)]
    assert [cell.strip() for cell in words[3].split("|")][3:5] == ["decode", "waiting"]
    twenty = {f"request-{n}": S.DECODE for n in range(19)} | {"last": S.WAITING}
    letters = [line.plain for line in table_lines([step(1, twenty)], width=100)]
    assert any("d" * 19 + "w" in line for line in letters)
    assert max(map(len, letters)) <= 100
    many = {f"request-{n}": S.DECODE for n in range(300)} | {"last": S.WAITING}
    counts = [line.plain for line in table_lines([step(1, many)], width=100)]
    assert any("1 waiting, 300 decode" in line for line in counts)
    assert max(map(len, counts)) <= 100


def test_a_script_that_is_left_out_is_named(tmp_path: Path) -> None:
    one = Console(file=io.StringIO(), width=200, highlight=False)
    PlainView(one, table=True).left_out("test_a", "it is parametrized", tmp_path / "test_x.py")
    assert "pytest test_x.py::test_a" in text_of(one)
