from __future__ import annotations

import itertools
import random
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scripted_registry.ci import register_cpu_ci
from scripted_registry.ci.partition import Job, Shard, lower_bound_s, partition
from scripted_registry.ci.timings import read_timings

register_cpu_ci(est_time=2, stage="unit", runner_config="cpu")

RECORDED = Path(__file__).parents[2] / "ci" / "timings.json"
GROUPS = ["a", "b", "c", None]
COSTS = st.floats(0.01, 100, allow_nan=False)
STARTS = st.fixed_dictionaries({name: st.floats(0, 50) for name in "abc"})


@st.composite
def jobs(draw: st.DrawFn, most: int = 40) -> list[Job]:
    costs = draw(st.lists(COSTS, min_size=1, max_size=most))
    groups = draw(st.lists(st.sampled_from(GROUPS), min_size=len(costs), max_size=len(costs)))
    return [
        Job(name=f"t{place}", cost_s=cost, group=group)
        for place, (cost, group) in enumerate(zip(costs, groups, strict=True))
    ]


def length(shard: list[Job], starts: dict[str, float]) -> float:
    groups = {job.group for job in shard if job.group is not None}
    return sum(job.cost_s for job in shard) + sum(starts[group] for group in groups)


def best_possible(found: list[Job], n: int, starts: dict[str, float]) -> float:
    """The shortest makespan, by trying every assignment."""
    best = float("inf")
    for places in itertools.product(range(n), repeat=len(found)):
        shards: list[list[Job]] = [[] for _ in range(n)]
        for job, place in zip(found, places, strict=True):
            shards[place].append(job)
        best = min(best, max(length(shard, starts) for shard in shards))
    return best


@given(jobs(), st.integers(1, 9), STARTS)
def test_every_test_is_on_exactly_one_shard_and_costs_add_up(
    found: list[Job], n: int, starts: dict[str, float]
) -> None:
    divided = partition(found, shards=n, starts=starts)
    assert len(divided.shards) == n
    placed = [job.name for shard in divided.shards for job in shard.jobs]
    assert sorted(placed) == sorted(job.name for job in found)
    for shard in divided.shards:
        assert shard.cost_s == pytest.approx(length(shard.jobs, starts))
    assert divided.lower_bound_s <= divided.makespan_s * (1 + 1e-9)
    # never worse than one machine that does everything
    assert divided.makespan_s <= length(found, starts) * (1 + 1e-9)


@given(jobs(), st.integers(1, 5), STARTS, st.randoms(use_true_random=False))
def test_the_order_of_collection_does_not_matter(
    found: list[Job], n: int, starts: dict[str, float], chance: random.Random
) -> None:
    shuffled = list(found)
    chance.shuffle(shuffled)

    def names(of: list[Job]) -> list[list[str]]:
        shards = partition(of, shards=n, starts=starts).shards
        return [sorted(job.name for job in shard.jobs) for shard in shards]

    assert names(found) == names(shuffled)


@given(jobs(most=7), st.integers(1, 3), STARTS)
def test_the_bound_is_one_and_the_division_is_near_the_best(
    found: list[Job], n: int, starts: dict[str, float]
) -> None:
    best = best_possible(found, n, starts)
    divided = partition(found, shards=n, starts=starts)
    assert divided.lower_bound_s <= best * (1 + 1e-9)
    assert best * (1 - 1e-9) <= divided.makespan_s
    if all(job.group is None for job in found):  # Graham's bound for longest first
        assert divided.makespan_s <= best * (4 / 3 - 1 / (3 * n)) * (1 + 1e-9)


@given(st.integers(0, 10**6), st.integers(2, 8))
def test_many_short_tests_come_within_five_percent(seed: int, n: int) -> None:
    """What a suite looks like: starts as long as some tests, and most tests short."""
    chance = random.Random(seed)
    starts = {f"g{place}": chance.uniform(0.5, 5) for place in range(6)}
    found = [
        Job(
            name=f"t{place}",
            cost_s=min(10.0, chance.expovariate(1 / 2)),
            group=chance.choice([None, *starts]),
        )
        for place in range(60 * n)
    ]
    divided = partition(found, shards=n, starts=starts)
    assert divided.makespan_s <= 1.05 * divided.lower_bound_s


def test_one_start_is_a_cost_that_keeps_a_configuration_together() -> None:
    found = [Job(name=f"x{i}", cost_s=1, group="x") for i in range(4)]
    found += [Job(name=f"y{i}", cost_s=1, group="y") for i in range(4)]
    together = partition(found, shards=2, starts={"x": 20, "y": 20})
    assert [{job.group for job in shard.jobs} for shard in together.shards] == [{"x"}, {"y"}]
    assert together.makespan_s == 24
    # A group that is longer than everything else is worth two starts.
    found = [Job(name=f"x{i}", cost_s=10, group="x") for i in range(8)]
    divided = partition(found, shards=2, starts={"x": 5})
    assert divided.makespan_s == 45
    assert divided.lower_bound_s == pytest.approx(45)


def test_more_shards_than_tests_leaves_empty_ones() -> None:
    divided = partition([Job(name="t", cost_s=3)], shards=4, starts={})
    assert sorted(len(shard.jobs) for shard in divided.shards) == [0, 0, 0, 1]
    assert divided.makespan_s == divided.lower_bound_s == 3


def test_tests_that_cannot_be_divided_evenly_raise_the_bound() -> None:
    nine = [Job(name=f"t{i}", cost_s=60) for i in range(9)]
    assert lower_bound_s(nine, shards=8, starts={}) == 120
    assert partition(nine, shards=8, starts={}).makespan_s == 120


def test_a_shard_pays_a_start_once() -> None:
    shard = Shard()
    for name in ("t1", "t2"):
        shard.take(Job(name=name, cost_s=1, group="g"), {"g": 7})
    assert shard.cost_s == 9


def recorded_suites() -> list[str]:
    return sorted(read_timings(RECORDED).recorded())


@pytest.mark.parametrize("n", range(1, 9))
@pytest.mark.parametrize("suite", recorded_suites())
def test_recorded_suites_come_within_five_percent_of_the_bound(suite: str, n: int) -> None:
    timings = read_timings(RECORDED).suite(suite)
    found = [job for path in timings.tests for job in timings.file_jobs(path)]
    divided = partition(found, shards=n, starts=timings.starts_of(found))
    assert divided.makespan_s <= 1.05 * divided.lower_bound_s


def test_something_is_recorded() -> None:
    assert recorded_suites() != []
