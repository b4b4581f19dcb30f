"""`/metrics`: SGLang's names, with figures that fit what has happened."""

from __future__ import annotations

import importlib.util
import math
import threading

import pytest
from scripted_registry.ci import register_cpu_ci

register_cpu_ci(est_time=1, stage="reference", runner_config="cpu")

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("prometheus_client") is None,
    reason="needs the capability 'an installed prometheus-client'",
)


def _scrape(server):
    from prometheus_client.parser import text_string_to_metric_families

    status, text = server.call("/metrics")
    assert status == 200
    found = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if not sample.name.endswith("_bucket"):
                found[sample.name.removeprefix("sglang:")] = sample.value
    return found


def _generate(server, prompt, n):
    sampling = {"temperature": 0, "ignore_eos": True, "max_new_tokens": n}
    return server.generate(input_ids=prompt, sampling_params=sampling)


def test_counters_count_what_was_served(start_server):
    server = start_server(
        enable_metrics=True,
        enable_metrics_device_timer=True,
        max_total_tokens=2048,
        served_model_name="named",
    )
    before = _scrape(server)
    assert (before["num_requests_total"], before["prompt_tokens_total"]) == (0, 0)
    prompt = list(range(100))
    for _ in range(2):
        _generate(server, prompt, 5)
    after = _scrape(server)
    assert after["num_requests_total"] == 2
    assert after["prompt_tokens_total"] == 200
    assert after["generation_tokens_total"] == 10
    assert after["cached_tokens_total"] == 99
    assert after["cache_hit_rate"] == pytest.approx(99 / 200)
    assert after["e2e_request_latency_seconds_count"] == 2
    assert after["time_to_first_token_seconds_count"] == 2
    assert 0 < after["time_to_first_token_seconds_sum"] <= after["e2e_request_latency_seconds_sum"]
    assert after["num_aborted_requests_total"] == 0
    assert (after["num_running_reqs"], after["num_queue_reqs"]) == (0, 0)
    assert after["token_usage"] == 0, "what the prefix tree keeps can be had"
    assert math.isnan(after["fwd_occupancy"])
    text = server.call("/metrics")[1]
    assert 'model_name="named"' in text
    assert "kv_canary" not in text, "there is none"
    status, body = server.call("/kv_canary")
    assert (status, "kv_canary='log'" in body["error"]["message"]) == (404, True)
    assert server.call("/health") == (200, "")


def test_gauges_show_a_busy_engine(start_server):
    server = start_server(
        enable_metrics=True,
        enable_metrics_device_timer=True,
        context_length=100_000,
        max_total_tokens=100_000,
    )
    rounds = [threading.Thread(target=_generate, args=(server, [1, i], 3000)) for i in range(4)]
    for thread in rounds:
        thread.start()
    seen = []
    while any(thread.is_alive() for thread in rounds):
        seen.append(_scrape(server))
    busy = [one for one in seen if not math.isnan(one["fwd_occupancy"])]
    assert busy
    assert all(0 < one["fwd_occupancy"] <= 100 for one in busy)
    assert max(one["gen_throughput"] for one in busy) > 0
    assert max(one["num_running_reqs"] for one in busy) == 4
    assert max(one["token_usage"] for one in busy) > 0.01
    server.call("/pause_generation", {"mode": "in_place"})
    late = threading.Thread(target=_generate, args=(server, [5], 1))
    late.start()
    while _scrape(server)["num_queue_reqs"] == 0:
        pass  # each scrape is a round trip to the scheduler
    assert _scrape(server)["num_paused_reqs"] == 1
    assert server.call("/continue_generation", {})[1]["status"] == "ok"
    late.join(timeout=5)
