"""The pytest plugin that keeps one shard's tests of what a stage collects.

`scripted ci run` loads it into the pytest of the stage's command (`-p`, through `PYTEST_ADDOPTS`), so
that the command itself need not know of shards.
"""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from statistics import median
from typing import Any

import pluggy

from scripted_registry.ci.exchange import (
    ADDOPTS_VARIABLE,
    REQUEST_VARIABLE,
    SelectedTest,
    ShardReply,
    ShardRequest,
    read_request,
)
from scripted_registry.ci.partition import Job, partition
from scripted_registry.ci.timings import SuiteTimings, read_timings, split_nodeid

hookimpl = pluggy.HookimplMarker("pytest")

_GROUP_HOOK = "pytest_scripted_engine_group"
_DEFAULT_S = 1.0


_request: ShardRequest | None = None


@hookimpl
def pytest_configure(config: Any) -> None:
    """Take the request, and its trace out of the environment: what a test starts is no shard.

    The controller of pytest-xdist leaves it there: its workers inherit it, and it runs no test.
    """
    global _request
    where = os.environ.get(REQUEST_VARIABLE)
    if where is None:
        return
    _request = read_request(Path(where))
    if getattr(config.option, "tx", None) and not hasattr(config, "workerinput"):
        return
    del os.environ[REQUEST_VARIABLE]
    if _request.addopts is None:
        os.environ.pop(ADDOPTS_VARIABLE, None)
    else:
        os.environ[ADDOPTS_VARIABLE] = _request.addopts


@hookimpl(trylast=True)
def pytest_collection_modifyitems(config: Any, items: list[Any]) -> None:
    """Deselect what belongs to other shards, after `-k` and `-m` had their say."""
    if _request is None:
        return
    kept, reply = select(_request, items, relay=config.hook)
    left_out = [item for item in items if item.nodeid not in kept]
    items[:] = [item for item in items if item.nodeid in kept]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
    reply.write(Path(_request.reply))


def select(
    request: ShardRequest, items: Iterable[Any], *, relay: Any
) -> tuple[set[str], ShardReply]:
    """Return the node ids of the request's tests, and what to tell about it."""
    timings = read_timings(Path(request.timings)).suite(request.suite)
    groups = {item.nodeid: _group_of(item, relay) for item in items}
    known = {nodeid: timings.test_s(nodeid) for nodeid in groups}
    jobs = [
        Job(name=nodeid, cost_s=cost, group=groups[nodeid])
        for nodeid, cost in _costs(known, timings, request).items()
    ]
    starts = timings.starts_of(jobs)
    shard_est_s: tuple[float, ...] = ()
    lower_bound = est = 0.0
    if request.only is not None:
        chosen = [job for job in jobs if job.name in set(request.only)]
    else:
        divided = partition(jobs, shards=request.shards, starts=starts)
        shard = divided.shards[request.shard - 1]
        chosen, est, lower_bound = shard.jobs, shard.cost_s, divided.lower_bound_s
        shard_est_s = tuple(one.cost_s for one in divided.shards)
    reply = ShardReply(
        collected=len(groups),
        unknown=sum(seconds is None for seconds in known.values()),
        digest=hashlib.sha256("\n".join(sorted(groups)).encode()).hexdigest()[:12],
        selected=tuple(
            SelectedTest(nodeid=job.name, est_s=job.cost_s, group=job.group) for job in chosen
        ),
        shard_est_s=shard_est_s,
        lower_bound_s=lower_bound,
        est_s=est,
    )
    return {job.name for job in chosen}, reply


def _group_of(item: Any, relay: Any) -> str | None:
    hook = getattr(relay, _GROUP_HOOK, None)  # nobody has that hook without scripted's own plugin
    group: str | None = None if hook is None else hook(item=item)
    return group


def _costs(
    known: dict[str, float | None], timings: SuiteTimings, request: ShardRequest
) -> dict[str, float]:
    """Seconds of each test: its own median, or else what its file says.

    That is the median of the file's other tests, or for a file that was never timed its share of
    the registered `est_time`.
    """
    of_file = Counter(split_nodeid(nodeid)[0] for nodeid in known)
    guesses: dict[str, float] = {}
    for path, count in of_file.items():
        timed = [job.cost_s for job in timings.file_jobs(path)]
        guesses[path] = (
            median(timed) if timed else request.est_time_s.get(path, _DEFAULT_S * count) / count
        )
    return {
        nodeid: guesses[split_nodeid(nodeid)[0]] if seconds is None else seconds
        for nodeid, seconds in known.items()
    }
