"""From the text of `/metrics` to one figure, and from a recorded figure to a floor."""

from __future__ import annotations

import json
import math

import pytest
from scripted_core.errors import ConfigError
from scripted_kit_client import CheckFailed
from scripted_kit_occupancy import Across
from scripted_kit_occupancy.baseline import floor_from, key_of, look_at, record
from scripted_kit_occupancy.samples import across_ranks, by_rank, fresh, summary_of
from scripted_kit_occupancy.scrape import Scrape, parse_scrape
from scripted_registry.ci import register_cpu_ci

register_cpu_ci(est_time=1, stage="unit", runner_config="cpu")

_TEXT = """
# HELP sglang:fwd_occupancy Forward pass GPU occupancy percentage.
# TYPE sglang:fwd_occupancy gauge
sglang:fwd_occupancy{dp_rank="0",model_name="m",tp_rank="0"} 98.5
sglang:fwd_occupancy{dp_rank="1",model_name="m",tp_rank="0"} NaN
# TYPE sglang:fwd_occupancy_of_something_else gauge
sglang:fwd_occupancy_of_something_else 3
# TYPE sglang:forward_execution_seconds counter
sglang:forward_execution_seconds_total{category="decode"} 1.5
"""


def test_a_scrape_has_a_value_for_each_rank():
    found = parse_scrape(_TEXT, at_s=1.5)
    assert found.gauge == "sglang:fwd_occupancy"
    assert found.numbers == {"dp_rank=0 tp_rank=0": 98.5}
    assert math.isnan(found.values["dp_rank=1 tp_rank=0"])
    assert found.has_timer_counter


def test_the_own_name_of_the_reference_engine_will_do_and_labels_need_not_be_there():
    found = parse_scrape("scripted:fwd_occupancy 12\n", at_s=0)
    assert (found.gauge, found.numbers) == ("scripted:fwd_occupancy", {"all": 12.0})


def test_samples_that_differ_in_other_labels_are_all_kept():
    text = 'sglang:fwd_occupancy{x="1"} 1\nsglang:fwd_occupancy{x="2"} 2\n'
    assert sorted(parse_scrape(text, at_s=0).numbers.values()) == [1.0, 2.0]


def test_a_scrape_without_the_gauge_has_no_name_for_it():
    assert parse_scrape("other 1\n", at_s=0).gauge is None
    with pytest.raises(CheckFailed, match="no Prometheus text"):
        parse_scrape("<html>404</html>", at_s=0)


@pytest.mark.parametrize("value", ["+Inf", "-1", "250", "1e400"])
def test_what_is_no_share_of_time_is_said_to_be_none(value):
    with pytest.raises(CheckFailed, match="is no share of time in percent"):
        parse_scrape(f"sglang:fwd_occupancy {value}\n", at_s=0)


@pytest.mark.parametrize(
    "text", ["sglang:fwd_occupancy x\n", "sglang:fwd_occupancy{ 3\n", "\x00", "{"]
)
def test_text_out_of_form_is_named(text):
    with pytest.raises(CheckFailed, match="no Prometheus text"):
        parse_scrape(text, at_s=0)


def _scrape(at_s: float, **values: float) -> Scrape:
    return Scrape(at_s=at_s, gauge="g", values=values, has_timer_counter=False)


def test_several_ranks_count_by_the_busiest_or_the_idlest():
    scrapes = [_scrape(0, a=90, b=70), _scrape(1, a=math.nan, b=math.nan), _scrape(2, a=80)]
    assert across_ranks(scrapes, Across.MAX) == [90, 80]
    assert across_ranks(scrapes, Across.MIN) == [70, 80]
    assert by_rank(scrapes) == {"a": ((0, 90), (2, 80)), "b": ((0, 70),)}


def test_a_rank_that_falls_behind_shows_in_min_alone():
    scrapes = [_scrape(i, a=99, b=60) for i in range(5)]
    assert summary_of(across_ranks(scrapes, Across.MAX)).median == 99
    assert summary_of(across_ranks(scrapes, Across.MIN)).median == 60


def test_what_is_still_of_the_request_before_is_left_out():
    before = _scrape(0, a=50)
    stale, new = _scrape(1, a=50), _scrape(2, a=90)
    assert fresh([stale, new, stale], before) == (new, stale)
    assert fresh([stale, stale], before) == ()
    assert fresh([stale], _scrape(0, a=math.nan)) == (stale,)


def test_a_summary_of_nothing_is_no_number():
    found = summary_of([])
    assert found.count == 0
    assert math.isnan(found.median)
    some = summary_of([5, 1, 2, 4, 3, 6, 7, 8, 9, 10])
    assert (some.median, some.p10, some.least, some.peak) == (5.5, 2, 1, 10)


def test_a_floor_follows_from_what_was_recorded_on_the_same_runner(tmp_path):
    file = tmp_path / "medians.json"
    key = key_of(engine="e", model="/models/tiny/", tokens=600, runner="cpu")
    assert key == "e/tiny/600 tokens/cpu"
    record(file, key, median=94.555, samples=30)
    record(file, "other", median=10, samples=5)
    assert floor_from(file, key, margin=2) == pytest.approx(92.56, abs=0.01)
    assert json.loads(file.read_text())[key]["samples"] == 30
    with pytest.raises(ConfigError, match="no median for 'x'"):
        floor_from(file, "x", margin=2)
    record(file, "nothing", median=math.nan, samples=0)
    with pytest.raises(ConfigError, match="no median for 'nothing'"):
        floor_from(file, "nothing", margin=2)
    look_at(file)
    with pytest.raises(ConfigError, match="there is no folder"):
        look_at(tmp_path / "no" / "medians.json")
    with pytest.raises(ConfigError, match="cannot be read"):
        floor_from(tmp_path / "none.json", key, margin=2)
    file.write_text("[1]")
    with pytest.raises(ConfigError, match="no object"):
        floor_from(file, key, margin=2)
