"""Options, outcomes, and a report for people and programs."""

from __future__ import annotations

import io
import json
import math
import xml.etree.ElementTree as ET
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

import pytest
from rich.console import Console
from scripted_core.errors import CapabilityMissing, ConfigError, EngineDied
from scripted_kit_client import (
    Check,
    Kit,
    KitFailed,
    KitReport,
    KitRun,
    Outcome,
    Series,
    Table,
    Target,
    option,
)
from scripted_kit_client.options import described, parse_options
from scripted_kit_client.output.as_json import reports_as_json
from scripted_kit_client.output.markdown import as_markdown, write_step_summary
from scripted_kit_client.output.svg import as_svg, write_svg
from scripted_kit_client.output.terminal import print_report
from scripted_registry.ci import register_cpu_ci

register_cpu_ci(est_time=2, stage="unit", runner_config="cpu")


class _Colour(StrEnum):
    RED = "red"
    BLUE = "blue"


@dataclass(frozen=True, kw_only=True)
class _Options:
    size: int = option(3, "how much")
    share: float | None = option(None, "how little")
    file: Path | None = option(None, "where")
    colour: _Colour = option(_Colour.RED, "which")
    on: bool = option(False, "whether")


def test_options_are_read_as_the_types_of_their_fields():
    given = {"size": "4", "share": "0.5", "file": "a/b", "colour": "blue", "on": "true"}
    assert parse_options(_Options, given, kit="k") == _Options(
        size=4, share=0.5, file=Path("a/b"), colour=_Colour.BLUE, on=True
    )
    assert parse_options(_Options, {"share": "none", "size": 7}, kit="k") == _Options(size=7)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"sise": "1"}, "did you mean 'size'"),
        ({"qqq": "1"}, "it has size, share"),
        ({"size": "much"}, "give a int"),
        ({"colour": "green"}, "red|blue"),
        ({"on": "maybe"}, "give a bool"),
    ],
)
def test_an_option_that_cannot_be_used_is_named(given, said):
    with pytest.raises(ConfigError) as caught:
        parse_options(_Options, given, kit="k")
    assert said in str(caught.value.hint)
    assert "kit k" in str(caught.value)


@dataclass(frozen=True, kw_only=True)
class _Bounded:
    tokens: int = option(1, "how many", at_least=1)
    every_s: float = option(1.0, "how often", above=0)
    share: float | None = option(None, "how much", at_least=0, at_most=1)
    on: bool = option(False, "whether")


@pytest.mark.parametrize(
    ("given", "hint"),
    [
        ({"tokens": 0}, "give a number of at least 1"),
        ({"every_s": 0}, "give a number above 0"),
        ({"every_s": math.nan}, "give a number above 0"),
        ({"every_s": math.inf}, "give a number above 0"),
        ({"share": 60}, "give a number of at least 0 and of at most 1"),
    ],
)
def test_an_amount_out_of_bounds_is_named_however_it_was_given(given, hint):
    kit = Kit(name="k", summary="", options=_Bounded, look=_nothing)
    (name,) = given
    for options in (given, _Bounded(**given), {name: str(given[name])}):
        with pytest.raises(ConfigError, match=f"option {name}=.* of kit k") as caught:
            kit(Target(url="http://127.0.0.1:9"), options=options)
        assert caught.value.hint == hint
    assert kit(Target(url="http://127.0.0.1:9")).error is not None


def test_options_of_another_kit_are_refused():
    kit = Kit(name="k", summary="", options=_Bounded, look=_nothing)
    with pytest.raises(ConfigError, match="kit k takes _Bounded, not _Options"):
        kit(Target(url="http://127.0.0.1:9"), options=_Options())


async def _nothing(run: KitRun, options: _Bounded) -> None:
    pass


def test_options_are_described():
    kinds = {one.name: (one.kind, one.default, one.text) for one in described(_Options)}
    assert kinds["size"] == ("int", "3", "how much")
    assert kinds["colour"] == ("red|blue", "red", "which")


def _check(outcome: Outcome, message: str = "seen | <b>") -> Check:
    return Check(name=f"a {outcome}", outcome=outcome, message=message)


def _report(*outcomes: Outcome, error=None) -> KitReport:
    return KitReport(
        kit="k",
        url="http://a",
        engine="e",
        model="m",
        checks=tuple(_check(one) for one in outcomes),
        tables=(Table(title="figures", columns=("what", "much"), rows=(("x\x1b[2J", "1"),)),),
        series=(
            Series(
                title="s",
                unit="%",
                points=(("r<1>", ((0.0, 1.0), (1.0, 3.0))),),
                lines=(("floor", 2),),
            ),
        ),
        figures={"median": math.nan, "n": 3},
        error=error,
    )


def test_an_outcome_is_the_worst_of_all():
    P, F, S = Outcome.PASSED, Outcome.FAILED, Outcome.SKIPPED
    assert _report(P, S).outcome is P
    assert _report(P, F, S).outcome is F
    assert _report(S).outcome is S
    assert _report(P, error=EngineDied("gone")).outcome is Outcome.BROKEN
    _report(P, S).raise_for_outcome()
    with pytest.raises(KitFailed, match=r"1 of 2 checks failed.*\n.*seen"):
        _report(P, F).raise_for_outcome()
    with pytest.raises(AssertionError):
        _report(F).raise_for_outcome()
    with pytest.raises(CapabilityMissing):
        _report(S).raise_for_outcome()
    with pytest.raises(EngineDied, match="gone"):
        _report(P, error=EngineDied("gone")).raise_for_outcome()


def test_a_terminal_shows_figures_before_checks_and_cannot_be_steered():
    out = io.StringIO()
    print_report(_report(Outcome.PASSED), console=Console(file=out, width=100))
    text = out.getvalue()
    assert text.index("figures") < text.index("a passed") < text.index("kit k: passed")
    assert "\x1b" not in text


def test_markdown_is_appended_to_the_step_summary(tmp_path):
    file = tmp_path / "summary.md"
    assert not write_step_summary([_report()], environ={})
    for _ in range(2):
        assert write_step_summary(
            [_report(Outcome.FAILED)], environ={"GITHUB_STEP_SUMMARY": str(file)}
        )
    text = file.read_text(encoding="utf-8")
    assert text.count("### ❌ kit `k`: failed") == 2
    assert "seen \\| &lt;b>" in text
    assert "seen" in as_markdown(_report(Outcome.PASSED))
    with pytest.raises(ConfigError, match="cannot be written"):
        write_step_summary([_report()], environ={"GITHUB_STEP_SUMMARY": str(tmp_path)})


def test_json_has_everything_and_no_nan():
    (found,) = json.loads(reports_as_json([_report(Outcome.PASSED, error=EngineDied("gone"))]))[
        "kits"
    ]
    assert found["outcome"] == "broken"
    assert found["error"] == {"code": "engine-died", "message": "gone", "hint": None}
    assert found["figures"] == {"median": None, "n": 3}
    assert found["series"][0]["points"] == {"r<1>": [[0.0, 1.0], [1.0, 3.0]]}


def test_a_plot_is_an_svg_with_a_line_for_each_label_and_threshold(tmp_path):
    (series,) = _report().series
    root = ET.fromstring(as_svg(series))
    name = "{http://www.w3.org/2000/svg}"
    (line,) = root.findall(f"{name}polyline")
    xs = [float(point.partition(",")[0]) for point in line.attrib["points"].split()]
    assert xs == sorted(xs)
    assert len(xs) == 2
    texts = [one.text for one in root.findall(f"{name}text")]
    assert "r<1>" in texts
    assert "floor 2" in texts
    empty = Series(title="s", unit="%", points=())
    assert "no samples" in as_svg(empty)
    write_svg(empty, tmp_path / "a.svg")
    with pytest.raises(ConfigError, match="cannot be written"):
        write_svg(empty, tmp_path / "b" / "a.svg")
