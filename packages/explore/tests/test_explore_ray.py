"""A campaign over a local Ray; in the environment `explore-ray`, nightly."""

from __future__ import annotations

from importlib.util import find_spec

import pytest
from scripted_explore.campaign import Task, merged, split
from scripted_explore.executors import RayExecutor
from scripted_registry.ci import register_cpu_ci

register_cpu_ci(est_time=40, stage="explore", runner_config="cpu", nightly=True)

pytestmark = pytest.mark.skipif(
    find_spec("ray") is None, reason="Ray is not installed: hatch run explore-ray:test"
)


def test_tasks_run_on_ray_and_their_findings_are_merged() -> None:
    task = Task(
        backend="reference",
        topologies=("single",),
        kwargs={"inject_fault": "row-handed-out-twice"},
        max_programs=8,
        shrink_timeout_s=0,
    )
    told: dict[int, int] = {}
    outcomes = list(
        RayExecutor(address="local").run(
            split(task, 2), progress=lambda place, outcome: told.update({place: outcome.programs})
        )
    )
    assert told.keys() == {0, 1}
    whole = merged(outcomes)
    assert whole.programs == 8
    assert len({one.signature for one in whole.findings}) == len(whole.findings) >= 1
