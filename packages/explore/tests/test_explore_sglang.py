"""A short campaign on real SGLang on a CPU; longer ones are a command, see docs/explore.md."""

from __future__ import annotations

from importlib.util import find_spec

import pytest
from scripted_explore import Sometimes, explore
from scripted_registry.ci import register_cpu_ci

register_cpu_ci(est_time=40, stage="single-sglang", runner_config="cpu")

pytestmark = pytest.mark.skipif(find_spec("sglang") is None, reason="SGLang is not installed")


def test_a_short_campaign_finds_nothing_new_in_sglang() -> None:
    outcome = explore(
        backend="sglang",
        topologies=["single"],
        steps=300,
        seed=3,
        demand=[Sometimes.CALLS_MEET, Sometimes.TREE_SPLIT],
    )
    assert outcome.report.steps >= 300
    assert outcome.starts == 1
    assert len(outcome.report.transitions) > 20
