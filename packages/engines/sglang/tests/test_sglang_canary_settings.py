"""Whose the arguments of a KV canary are."""

from __future__ import annotations

import json

import pytest
from scripted_core.errors import ConfigError
from scripted_registry.ci import register_cpu_ci
from scripted_sglang.kv_settings import take_settings

register_cpu_ci(est_time=1, stage="unit", runner_config="cpu")
register_cpu_ci(est_time=1, stage="single-sglang", runner_config="cpu")
CANARY = {
    "kv_canary": "log",
    "kv_canary_real_data": "all",
    "kv_canary_sweep_interval": 4,
    "max_total_tokens": 1024,
}


def test_the_arguments_are_ours_on_a_cpu_and_sglangs_elsewhere():
    given = dict(CANARY)
    settings = take_settings(given, on_cpu=True)
    assert given == {"max_total_tokens": 1024}
    assert json.loads(settings["SCRIPTED_KV_CANARY"])["kv_canary"] == "log"
    on_gpu = dict(CANARY)
    assert take_settings(on_gpu, on_cpu=False) == {}
    assert on_gpu == CANARY
    of_a_pair = {**CANARY, "disaggregation_mode": "prefill"}
    assert take_settings(of_a_pair, on_cpu=True) == {}
    assert of_a_pair == {**CANARY, "disaggregation_mode": "prefill"}, "SGLang's own has them"


@pytest.mark.parametrize(
    ("more", "named"),
    [
        ({"kv_canary": "shout"}, "kv_canary='shout'"),
        ({"kv_canary_real_data": "some"}, "kv_canary_real_data='some'"),
        ({"kv_canary_sweep_interval": -1}, "kv_canary_sweep_interval=-1"),
        ({"pp_size": 2}, "pp_size above 1"),
        ({"tp_size": 2, "dp_size": 2}, "dp_size above 1"),
        ({"speculative_algorithm": "EAGLE"}, "speculative_algorithm"),
    ],
)
def test_what_is_not_watched_is_refused_by_name(more, named):
    with pytest.raises(ConfigError, match=named):
        take_settings({**CANARY, **more}, on_cpu=True)
