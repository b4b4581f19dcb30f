"""What `scripted ci run` and the pytest that it starts tell each other, through two JSON files."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

REQUEST_VARIABLE = "SCRIPTED_CI_REQUEST"
"""Set for the stage's command only: the path of the request."""
ADDOPTS_VARIABLE = "PYTEST_ADDOPTS"
"""pytest's own variable for more options, through which our plugin is loaded."""


@dataclass(frozen=True, kw_only=True)
class ShardRequest:
    """Which of the collected tests to run.

    `only` names them (a retry), otherwise it is shard `shard` of `shards`. `est_time_s` is of whole
    files, for tests that were never timed. The reply is written to `reply`. `addopts` is what
    `PYTEST_ADDOPTS` was before, for every pytest that a test starts.
    """

    suite: str
    shard: int
    shards: int
    timings: str
    est_time_s: Mapping[str, float]
    reply: str
    only: tuple[str, ...] | None = None
    addopts: str | None = None

    def write(self, path: Path) -> None:
        """Write it as JSON."""
        path.write_text(json.dumps(asdict(self)), encoding="utf-8")


@dataclass(frozen=True, kw_only=True)
class SelectedTest:
    """A test that was selected: what it is expected to take, and what engine it shares."""

    nodeid: str
    est_s: float
    group: str | None


@dataclass(frozen=True, kw_only=True)
class ShardReply:
    """What was collected, and what of it was selected.

    `digest` is of everything that was collected: shards that do not agree about it may have divided
    the tests differently. `unknown` counts the collected tests that were never timed.
    """

    collected: int
    unknown: int
    digest: str
    selected: tuple[SelectedTest, ...]
    shard_est_s: tuple[float, ...] = ()
    lower_bound_s: float = 0.0
    est_s: float = 0.0

    def write(self, path: Path) -> None:
        """Write it as a whole: under pytest-xdist every worker does, each the same."""
        partial = path.with_name(f"{path.name}.{os.getpid()}")
        partial.write_text(json.dumps(asdict(self)), encoding="utf-8")
        os.replace(partial, path)


def read_request(path: Path) -> ShardRequest:
    """Read what `ShardRequest.write` wrote."""
    data = json.loads(path.read_text(encoding="utf-8"))
    only = data.pop("only")
    return ShardRequest(**data, only=None if only is None else tuple(only))


def read_reply(path: Path) -> ShardReply | None:
    """Read what `ShardReply.write` wrote; `None` when pytest did not come that far."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    selected = tuple(SelectedTest(**test) for test in data.pop("selected"))
    data["shard_est_s"] = tuple(data["shard_est_s"])
    return ShardReply(**data, selected=selected)
