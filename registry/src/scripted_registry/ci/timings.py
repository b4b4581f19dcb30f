"""How long tests took in earlier runs: `ci/timings.json`.

Of each test the last samples are kept, and their median is what it is expected to take: one run on
a busy machine changes little. Times are of a suite, since the same test takes milliseconds on one
engine and seconds on another.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from scripted_registry.ci.errors import TimingsError
from scripted_registry.ci.partition import Job

TIMINGS_VERSION = 1
SAMPLES_KEPT = 7
_SMALLEST_S = 0.001


@dataclass(frozen=True, kw_only=True)
class TestTime:
    """One test as it ran: its seconds without the engine start that it waited for.

    `group` is the engine configuration that it shares with others, `start_s` the start of that
    engine, when it was started for this test.
    """

    __test__ = False

    nodeid: str
    seconds: float
    group: str | None = None
    start_s: float | None = None


class SuiteTimings:
    """The samples of one suite, in seconds.

    `tests` are by file, by group ("" for none) and by name; `starts`, of engines, by group.
    """

    def __init__(self) -> None:
        self.tests: dict[str, dict[str, dict[str, list[float]]]] = {}
        self.starts: dict[str, list[float]] = {}

    def test_s(self, nodeid: str) -> float | None:
        """The median of a test; `None` for one that was not recorded."""
        path, name = split_nodeid(nodeid)
        for tests in self.tests.get(path, {}).values():
            if name in tests:
                return median(tests[name])
        return None

    def file_jobs(self, path: str) -> list[Job]:
        """The recorded tests of a file, each with its median."""
        return [
            Job(name=f"{path}::{name}", cost_s=median(samples), group=group or None)
            for group, tests in self.tests.get(path, {}).items()
            for name, samples in tests.items()
        ]

    def start_s(self, group: str) -> float:
        """The median of an engine start; of all starts for an unknown one; 0 without any."""
        samples = self.starts.get(group)
        if samples:
            return median(samples)
        return median(map(median, self.starts.values())) if self.starts else 0.0

    def starts_of(self, jobs: Iterable[Job]) -> dict[str, float]:
        """The seconds of one start of each group among `jobs`."""
        groups = sorted({job.group for job in jobs if job.group is not None})
        return {group: self.start_s(group) for group in groups}

    def add(self, tests: Iterable[TestTime]) -> None:
        """Add one run."""
        for test in tests:
            path, name = split_nodeid(test.nodeid)
            groups = self.tests.setdefault(path, {})
            samples: list[float] = []
            for group in list(groups):
                samples = groups[group].pop(name, samples)
                if not groups[group]:
                    del groups[group]
            groups.setdefault(test.group or "", {})[name] = samples
            _append(samples, test.seconds)
            if test.group is not None and test.start_s is not None:
                _append(self.starts.setdefault(test.group, []), test.start_s)


class Timings:
    """Everything that was recorded, by suite."""

    def __init__(self, suites: Mapping[str, SuiteTimings] | None = None) -> None:
        self._suites = dict(suites or {})

    def suite(self, name: str) -> SuiteTimings:
        """The timings of a suite, empty when nothing was recorded."""
        return self._suites.setdefault(name, SuiteTimings())

    def recorded(self) -> list[str]:
        """The suites of which a test was recorded."""
        return [name for name, suite in self._suites.items() if suite.tests]

    def forget_missing(self, root: Path) -> int:
        """Drop the tests of files that are gone, and return how many files that were."""
        gone = 0
        for suite in self._suites.values():
            missing = [path for path in suite.tests if not (root / path).is_file()]
            gone += len(missing)
            for path in missing:
                del suite.tests[path]
        return gone

    def as_json(self) -> str:
        """The file's text: sorted, a test a line, so that changes can be read."""
        data = {
            "version": TIMINGS_VERSION,
            "suites": {
                name: {"starts": suite.starts, "tests": suite.tests}
                for name, suite in self._suites.items()
                if suite.tests or suite.starts
            },
        }
        return "\n".join(_lines(data, 0)) + "\n"


def read_timings(path: Path) -> Timings:
    """Return what `path` holds; nothing when there is no such file.

    Raises `TimingsError` for a file that is not of this form.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return Timings()
    except (OSError, ValueError) as error:
        raise _unusable(path, str(error)) from error
    try:
        return _from_data(data)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise _unusable(path, f"{type(error).__name__}: {error}") from error


def write_timings(path: Path, timings: Timings) -> None:
    """Replace `path` as a whole: whoever reads it sees the old or the new."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(
        "w", encoding="utf-8", dir=path.parent, prefix=f".{path.name}.", delete=False
    ) as file:
        file.write(timings.as_json())
    os.chmod(file.name, 0o644)
    os.replace(file.name, path)


def split_nodeid(nodeid: str) -> tuple[str, str]:
    """Return a node id's file and the rest of it."""
    path, _, name = nodeid.partition("::")
    return path, name


def _append(samples: list[float], seconds: float) -> None:
    samples.append(max(_SMALLEST_S, round(float(seconds), 3)))
    del samples[:-SAMPLES_KEPT]


def _from_data(data: Any) -> Timings:
    if data["version"] != TIMINGS_VERSION:
        raise ValueError(f"version {data['version']!r}, this reads {TIMINGS_VERSION}")
    suites = {}
    for name, content in data["suites"].items():
        suite = suites[name] = SuiteTimings()
        suite.starts = {group: _samples(values) for group, values in content["starts"].items()}
        suite.tests = {
            path: {
                group: {test: _samples(values) for test, values in tests.items()}
                for group, tests in groups.items()
            }
            for path, groups in content["tests"].items()
        }
    return Timings(suites)


def _samples(values: Any) -> list[float]:
    samples = [float(value) for value in values]
    if not samples or not all(0 <= sample < float("inf") for sample in samples):
        raise ValueError(f"{values!r} are no seconds")
    return samples


def _lines(value: object, depth: int) -> list[str]:
    if not isinstance(value, dict):
        return [json.dumps(value)]
    if not value:
        return ["{}"]
    lines = ["{"]
    for place, key in enumerate(sorted(value)):
        first, *rest = _lines(value[key], depth + 1)
        inner = [f"{' ' * (depth + 1)}{json.dumps(key)}: {first}", *rest]
        inner[-1] += "," if place < len(value) - 1 else ""
        lines += inner
    return [*lines, f"{' ' * depth}}}"]


def _unusable(path: Path, why: str) -> TimingsError:
    return TimingsError(
        f"{path} cannot be used: {why}",
        hint="take it from version control again, or delete it: it is learned anew from "
        "`scripted ci record`",
    )
