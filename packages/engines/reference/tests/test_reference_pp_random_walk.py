"""Random operations against a pipeline; after each slot every stage is audited and compared."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import pytest
from scripted_core import InProcessSession
from scripted_reference import expected_output
from scripted_registry.ci import register_cpu_ci

register_cpu_ci(est_time=1, stage="reference", runner_config="cpu")

SMALL: dict[str, Any] = {
    "max_total_tokens": 512,
    "max_running_requests": 6,
    "chunked_prefill_size": 64,
    "context_length": 400,
}
CONFIGS: list[dict[str, Any]] = [
    {"pp_size": 2},
    {"pp_size": 4, "pp_async_batch_depth": 2, "page_size": 4, "schedule_conservativeness": 0.0},
    {"pp_size": 3, "pp_async_batch_depth": 1, "page_size": 16},
    {"pp_size": 2, "disable_radix_cache": True, "schedule_conservativeness": 0.0},
    {"pp_size": 2, "schedule_policy": "lpm", "pp_max_micro_batch_size": 6},
]
_STEPS = 400
_MAX_LIVE = 10


def _walk(t: Any, seed: str, seen: dict[str, int]) -> Iterator[None]:
    rng = random.Random(seed)
    started: list[tuple[Any, list[int]]] = []
    paused = held = False
    for _ in range(_STEPS):
        chance = rng.random()
        live = [handle for handle, _ in started if not handle.finished]
        if chance < 0.25 and len(live) < _MAX_LIVE:
            family = random.Random(f"family {rng.randrange(3)}")
            own = random.Random(f"own {len(started)} {seed}")
            prompt = [family.randrange(3, 32_000) for _ in range(rng.randrange(1, 120))]
            prompt += [own.randrange(3, 32_000) for _ in range(rng.choice([0, 30, 130]))]
            handle = t.start_req(
                input_ids=prompt, max_new_tokens=rng.randrange(1, 60), ignore_eos=True
            )
            started.append((handle, prompt))
        elif chance < 0.29 and live:
            t.abort(rng.choice(live))
        elif chance < 0.32:
            t.pause_generation(mode=rng.choice(["retract", "in_place"]))
            paused = True
        elif chance < 0.36 and not held:
            stats = t.engine_stats()
            left = stats["kv_pool_free"] + stats["kv_pool_evictable"]
            t.exhaust_kv(leave_pages=rng.randrange(left + 1))
            held = True
        elif chance < 0.38 and "prefix_cache" in t.capabilities:
            t.evict_radix()
        elif chance < 0.40:
            t.flush_cache()
        elif chance < 0.405:
            t.abort_all()
        elif chance < 0.48 and held:
            t.release_exhausted()
            held = False
        elif chance < 0.60 and paused:
            t.continue_generation()
            paused = False
        yield
        natives = [t.find_req_by_rid(handle.rid) for handle, _ in started]
        seen["retracted"] = max(
            seen["retracted"], *(0 if one is None else one.retraction_count for one in natives), 0
        )
        seen["in flight"] = max(seen["in flight"], len(t.scheduler.in_flight))
    t.release_exhausted()
    t.continue_generation()
    for _ in range(3000):
        yield
        if all(handle.finished for handle, _ in started):
            break
    for handle, prompt in started:
        output = handle.output_ids
        assert handle.finished
        assert output == expected_output(prompt, len(output)), handle
    while not t.is_fully_idle:
        yield
    receipt = t.flush_cache()
    yield
    assert receipt.ok
    assert all(rank.stats["kv_pool_free"] == rank.stats["kv_pool_total"] for rank in t.ranks)
    seen["requests"] = len(started)


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: "-".join(map(str, config.values())))
@pytest.mark.parametrize("seed", range(2))
def test_a_long_random_walk(config: dict[str, Any], seed: int) -> None:
    seen = {"retracted": 0, "in flight": 0, "requests": 0}
    with InProcessSession.start(backend="reference", **(SMALL | config)) as session:
        session.execute_script(_walk, args=(f"{seed} {sorted(config.items())}", seen))
    assert seen["requests"] > 20
    assert seen["retracted"] > 0, "this walk has met no pressure"
    slots = config["pp_size"] + config.get("pp_async_batch_depth", 0)
    assert seen["in flight"] == slots - 1
