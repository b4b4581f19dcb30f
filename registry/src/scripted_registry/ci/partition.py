"""Dividing the tests of a stage among shards so that the longest shard is as short as can be.

Tests that share an engine configuration share one start of that engine on each shard they are on,
so a shard costs the sum of its tests and of the starts of its groups. That is scheduling on
identical machines with class setup times; the ways tried here are Graham's longest processing time
first (1969), over tests and over whole groups, and a dual approximation in the manner of MULTIFIT
(Coffman, Garey, Johnson 1978), which searches the smallest length that everything can be packed
into. The best of them is taken; `lower_bound_s` says how far that can be from the best there is.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

_SEARCH_STEPS = 24
"""Halvings of the interval that a packing is searched in: to a 16-millionth of it."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """One test, or anything else that is not divided: `group` is what it shares an engine with."""

    name: str
    cost_s: float
    group: str | None = None


@dataclass(kw_only=True)
class Shard:
    """What one machine does, and how long it takes: `cost_s` with the starts of its groups."""

    jobs: list[Job] = field(default_factory=list)
    groups: set[str] = field(default_factory=set)
    cost_s: float = 0.0

    def cost_of(self, job: Job, starts: Mapping[str, float]) -> float:
        """What `job` would add."""
        if job.group is None or job.group in self.groups:
            return job.cost_s
        return job.cost_s + starts.get(job.group, 0.0)

    def take(self, job: Job, starts: Mapping[str, float]) -> None:
        """Add `job`."""
        self.cost_s += self.cost_of(job, starts)
        self.jobs.append(job)
        if job.group is not None:
            self.groups.add(job.group)


@dataclass(frozen=True, kw_only=True)
class Partition:
    """All shards, in order; every job is on exactly one. `lower_bound_s` is below any makespan."""

    shards: tuple[Shard, ...]
    lower_bound_s: float

    @property
    def makespan_s(self) -> float:
        """The length of the longest shard."""
        return max(shard.cost_s for shard in self.shards)


def partition(jobs: Iterable[Job], *, shards: int, starts: Mapping[str, float]) -> Partition:
    """Divide `jobs` among `shards`; `starts` are the seconds of one start of each group.

    The result depends on the jobs only, not on their order: every machine that collects the same
    tests comes to the same partition.
    """
    ordered = sorted(jobs, key=lambda job: (-job.cost_s, job.name))
    bound = lower_bound_s(ordered, shards=shards, starts=starts)
    tried = [
        _longest_first(ordered, shards, starts),
        _groups_longest_first(ordered, shards, starts),
    ]
    best = min(tried, key=_makespan)
    best = _packed(ordered, shards, starts, bound, _makespan(best)) or best
    return Partition(shards=tuple(best), lower_bound_s=bound)


def lower_bound_s(jobs: Sequence[Job], *, shards: int, starts: Mapping[str, float]) -> float:
    """Return a length that no partition is shorter than, in seconds.

    It is the largest of: the longest test with the start of its engine; what `k + 1` tests on one
    shard take at least, when there are more than `k` times as many tests as shards; and the
    smallest length in whose `shards` multiples all work fits, when a group that is longer is
    started as often as it has to be.
    """
    costs = sorted((job.cost_s for job in jobs), reverse=True)
    bound = max((job.cost_s + starts.get(job.group or "", 0.0) for job in jobs), default=0.0)
    for k in range(1, len(costs) // shards + 1):
        if k * shards < len(costs):
            bound = max(bound, sum(costs[k * shards - k : k * shards + 1]))
    totals: dict[str, float] = defaultdict(float)
    loose = 0.0
    for job in jobs:
        if job.group is None:
            loose += job.cost_s
        else:
            totals[job.group] += job.cost_s
    sizes = [(total, starts.get(group, 0.0)) for group, total in totals.items()]

    def fits(length: float) -> bool:
        work = loose
        for total, start in sizes:
            room = length - start
            if room <= 0:
                return False
            # a hair less than a whole number of shards is that number: sums of floats are not exact
            times = max(1, -int(-(total / room - 1e-9) // 1))
            work += total + times * start
        return work <= length * shards * (1 + 1e-12)

    high = loose + sum(total + start for total, start in sizes)
    low = bound
    if high <= low or fits(low):
        return bound
    for _ in range(60):
        middle = (low + high) / 2
        if fits(middle):
            high = middle
        else:
            low = middle
    return low


def _makespan(shards: Sequence[Shard]) -> float:
    return max(shard.cost_s for shard in shards)


def _longest_first(jobs: Sequence[Job], n: int, starts: Mapping[str, float]) -> list[Shard]:
    """Each test, longest first, to the shard that is then the shortest."""
    shards = [Shard() for _ in range(n)]
    for job in jobs:
        min(shards, key=lambda shard: shard.cost_s + shard.cost_of(job, starts)).take(job, starts)
    return shards


def _groups_longest_first(jobs: Sequence[Job], n: int, starts: Mapping[str, float]) -> list[Shard]:
    """Each group whole, longest first, to the shortest shard: the fewest starts."""
    shards = [Shard() for _ in range(n)]
    for group in _grouped(jobs, starts):
        shard = min(shards, key=lambda one: one.cost_s)
        for job in group:
            shard.take(job, starts)
    return shards


def _grouped(jobs: Sequence[Job], starts: Mapping[str, float]) -> list[list[Job]]:
    """The jobs by group, the longest group first; a job without a group is one of its own."""
    groups: dict[tuple[str, bool], list[Job]] = defaultdict(list)
    for job in jobs:
        groups[(job.group or job.name, job.group is None)].append(job)

    def length(group: list[Job]) -> float:
        return starts.get(group[0].group or "", 0.0) + sum(job.cost_s for job in group)

    return sorted(groups.values(), key=lambda group: (-length(group), group[0].name))


def _packed(
    jobs: Sequence[Job], n: int, starts: Mapping[str, float], low: float, high: float
) -> list[Shard] | None:
    """The shards of the smallest length between the two that everything could be packed into."""
    groups = _grouped(jobs, starts)
    found: list[Shard] | None = None
    for _ in range(_SEARCH_STEPS):
        if high - low <= low * 1e-4:
            break
        length = (low + high) / 2
        packed = _pack(groups, n, starts, length)
        if packed is None:
            low = length
        else:
            found, high = packed, min(length, _makespan(packed))
    return found


def _pack(
    groups: Sequence[list[Job]], n: int, starts: Mapping[str, float], length: float
) -> list[Shard] | None:
    """Pack each group where it fits best, or divide it; `None` when something does not fit."""
    shards = [Shard() for _ in range(n)]
    for group in groups:
        whole = starts.get(group[0].group or "", 0.0) + sum(job.cost_s for job in group)
        fitting = [shard for shard in shards if shard.cost_s + whole <= length]
        # One job alone goes to the emptiest shard, which keeps the others level.
        if fitting and len(group) == 1:
            fitting = [min(fitting, key=lambda shard: shard.cost_s)]
        if fitting:
            tightest = max(fitting, key=lambda shard: shard.cost_s)
            for job in group:
                tightest.take(job, starts)
        elif not _divide(group, shards, starts, length):
            return None
    return shards


def _divide(
    group: list[Job], shards: list[Shard], starts: Mapping[str, float], length: float
) -> bool:
    """Fill one shard after the other, the emptiest first, with the longest tests that fit."""
    left = list(group)
    for shard in sorted(shards, key=lambda one: one.cost_s):
        rest = []
        for job in left:
            if shard.cost_s + shard.cost_of(job, starts) <= length:
                shard.take(job, starts)
            else:
                rest.append(job)
        left = rest
        if not left:
            return True
    return False
