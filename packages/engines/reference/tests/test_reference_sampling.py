"""Temperature and seeds on the `hash` model: other tokens, and the same each time."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from scripted_reference import expected_output
from scripted_reference.messages import GenerateReq
from scripted_reference.request import SamplingParams
from scripted_registry.ci import register_cpu_ci

register_cpu_ci(est_time=1, stage="reference", runner_config="cpu")


@pytest.mark.parametrize("overlap", [False, True])
def test_sampling_depends_on_the_seed_alone(engine: Any, overlap: bool) -> None:
    kwargs = {
        "max_total_tokens": 160,
        "chunked_prefill_size": 32,
        "schedule_conservativeness": 0.0,
        "disable_overlap_schedule": not overlap,
        "random_seed": 5,
    }
    e = engine(**kwargs)
    prompt = list(range(100, 140))
    sampling: dict[str, dict[str, Any]] = {
        "greedy": {},
        "zero": {"temperature": 0.0},
        "tiny": {"temperature": 1e-320},
        "engine": {"temperature": 0.7},
        "same": {"temperature": 1.3, "seed": 5},
        "other": {"temperature": 0.7, "seed": 6},
        "negative": {"temperature": 0.7, "seed": -6},
    }
    for rid, params in sampling.items():
        e.post(rid, prompt, max_new_tokens=30, **params)
    e.run()
    assert sum(req.retraction_count for req in e.finishes) > 0, "nothing was retracted"
    for rid, params in sampling.items():
        assert e.finished(rid).output_ids == expected_output(
            prompt,
            30,
            seed=5,
            temperature=params.get("temperature"),
            sampling_seed=params.get("seed"),
        )
    distinct = {rid: tuple(e.finished(rid).output_ids) for rid in sampling}
    assert distinct["greedy"] == distinct["zero"] == distinct["tiny"]
    assert distinct["engine"] == distinct["same"]
    groups = ("greedy", "engine", "other", "negative")
    for one, another in itertools.combinations(groups, 2):
        assert distinct[one] != distinct[another]


@pytest.mark.parametrize("temperature", [-0.1, float("nan"), float("inf"), 10**400])
def test_an_impossible_temperature_is_refused(engine: Any, temperature: float) -> None:
    spec = GenerateReq(
        rid="r", input_ids=[5], sampling_params=SamplingParams(temperature=temperature)
    )
    refusal = engine().scheduler.validate(spec)
    assert f"got {temperature}" in refusal
