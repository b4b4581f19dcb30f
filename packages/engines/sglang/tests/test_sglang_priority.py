"""Priorities: who is served first, and who gives way; on the server that the LoRA scripts use."""

from __future__ import annotations

import pytest
from scripted_backend_single import (
    lora_device_kwargs,
    require_at_rest,
    run_steps,
    settle,
    undisturbed_output,
)
from scripted_chunked import advance_to_decode_step, run_until_all_finished, run_until_finished
from scripted_registry.ci import register_cpu_ci
from scripted_sglang import launch

register_cpu_ci(est_time=10, stage="single-sglang", runner_config="cpu")

models = pytest.importorskip("scripted_models", reason="scripted-models is not installed")

pytestmark = [
    pytest.mark.skipif(
        launch.check_usable() is not None,
        reason=f"needs the capability 'an installed SGLang': {launch.check_usable()}",
    ),
    pytest.mark.parametrize("scripted_backend", ["sglang"], indirect=True),
    pytest.mark.scripted(**lora_device_kwargs(engine="sglang", model=models.checkpoint("tiny"))),
    pytest.mark.scripted_requires("priority"),
]


def _start(t, priority, *, seed, max_new_tokens=6):
    return t.start_req(
        prompt_len=20,
        seed=seed,
        max_new_tokens=max_new_tokens,
        ignore_eos=True,
        priority=priority,
    )


def _served(t):
    return list(dict.fromkeys(rid for record in t.batch_log for rid in record.rids))


def test_the_queue_is_served_by_priority_and_then_by_arrival(t):
    t.exhaust("rows", leave_rows=1)
    t.pause_generation(mode="in_place")
    yield
    started = {
        seed: _start(t, priority, seed=seed, max_new_tokens=2)
        for seed, priority in enumerate((1, 5, 9, 5, 1))
    }
    yield
    t.continue_generation()
    yield from run_until_all_finished(list(started.values()))
    assert _served(t) == [started[seed].rid for seed in (2, 1, 3, 0, 4)]


def test_a_view_has_the_priority(t):
    r = _start(t, 3, seed=1)
    yield
    assert t.view(r.rid).priority == 3
    yield from run_until_finished(r)


def test_a_running_request_gives_way_to_a_much_higher_one_and_loses_nothing(t):
    alone = yield from undisturbed_output(t, prompt_len=20, seed=1, max_new_tokens=40)
    t.exhaust("rows", leave_rows=1)
    yield
    low = _start(t, 0, seed=1, max_new_tokens=40)
    yield from advance_to_decode_step(low, 5)
    high = _start(t, 100, seed=2)
    yield from advance_to_decode_step(high, 1)
    assert low.status == "waiting", "the request of low priority kept the only row"
    yield from run_until_finished(high)
    assert not low.finished
    yield from run_until_finished(low)
    assert low.output_ids == alone
    assert low.client.wait_ended(5.0)
    assert low.client.token_ids == alone
    t.release_exhausted()
    yield
    yield from settle(t)
    require_at_rest(t)


def test_a_running_request_does_not_give_way_to_one_of_about_its_own_priority(t):
    t.exhaust("rows", leave_rows=1)
    yield
    first = _start(t, 5, seed=1, max_new_tokens=20)
    yield from advance_to_decode_step(first, 3)
    second = _start(t, 6, seed=2)
    yield from run_steps(6)
    assert first.status == "running"
    assert second.status == "waiting"
    yield from run_until_all_finished([first, second])
