"""The floor of a runner: its median less two points. A sound server keeps it, 1 ms a step breaks it."""

from __future__ import annotations

import statistics
from collections.abc import Iterator

import pytest
from scripted_kit_client import (
    Outcome,
    Target,
    free_url,
    kill_process_tree,
    popen_launch_server,
)
from scripted_kit_occupancy import OCCUPANCY, OccupancyOptions
from scripted_registry.ci import register_cpu_ci

register_cpu_ci(est_time=20, stage="reference", runner_config="cpu")

_TOKENS = 600
_TIMER = {"SGLANG_ENABLE_METRICS_DEVICE_TIMER": "1"}


@pytest.fixture(scope="module")
def servers() -> Iterator[dict[str, Target]]:
    """A sound server, and one that sleeps 1 ms in every iteration."""
    flags = {"sound": [], "stalls": ["--inject-fault", "stall-every-iteration"]}
    found, pids = {}, []
    for name, more in flags.items():
        url = free_url()
        process = popen_launch_server(
            "tiny",
            url,
            backend="reference",
            other_args=["--enable-metrics", *more],
            env=_TIMER,
        )
        pids.append(process.pid)
        found[name] = Target(url=url)
    yield found
    for pid in pids:
        kill_process_tree(pid)


def test_two_points_below_the_recorded_median_is_a_floor_that_1_ms_breaks(servers, tmp_path):
    file = tmp_path / "medians.json"
    options = {"max_new_tokens": _TOKENS, "scrape_interval_s": 0.05, "runner": "cpu"}
    recorded = OCCUPANCY(
        servers["sound"], options=OccupancyOptions(threshold=1, record=file, **options)
    )
    recorded.raise_for_outcome()
    floor = OccupancyOptions(baseline=file, **options)
    sound = OCCUPANCY(servers["sound"], options=floor)
    assert sound.outcome is Outcome.PASSED, sound.checks
    assert sound.figures["threshold"] == pytest.approx(recorded.figures["median"] - 2, abs=0.01)
    stalls = OCCUPANCY(servers["stalls"], options=floor)
    (failed,) = stalls.with_outcome(Outcome.FAILED)
    assert failed.name == "median"
    assert (
        f"median {stalls.figures['median']:.2f} %, floor {floor_of(sound):.2f} %" in failed.message
    )


def floor_of(report) -> float:
    return float(report.figures["threshold"])


def test_both_names_of_the_gauge_are_there_and_agree(servers):
    import urllib.request

    from scripted_kit_occupancy.scrape import GAUGES

    with urllib.request.urlopen(servers["sound"].url + "/metrics", timeout=10) as reply:
        text = reply.read().decode()
    assert all(f"\n{name}{{" in text for name in GAUGES)


def test_a_rank_is_judged_alone_when_it_is_asked_for(servers):
    options = OccupancyOptions(
        threshold=1, max_new_tokens=400, scrape_interval_s=0.05, across="min", min_samples=3
    )
    report = OCCUPANCY(servers["sound"], options=options)
    report.raise_for_outcome()
    ((_, points),) = report.series[0].points
    assert report.figures["median"] == pytest.approx(statistics.median(v for _, v in points))


def test_too_short_a_request_says_so_and_nothing_of_occupancy(servers):
    options = OccupancyOptions(threshold=1, max_new_tokens=20, scrape_interval_s=0.05)
    report = OCCUPANCY(servers["sound"], options=options)
    assert report.outcome is Outcome.FAILED
    outcomes = {check.name: check.outcome for check in report.checks}
    assert outcomes["samples"] is Outcome.FAILED
    assert outcomes["median"] is Outcome.SKIPPED
