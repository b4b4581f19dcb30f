"""Random operations against the engine; after each iteration everything is checked."""

from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule
from scripted_reference import expected_output
from scripted_reference.request import FinishKind
from scripted_registry.ci import register_cpu_ci

register_cpu_ci(est_time=35, stage="reference", runner_config="cpu")

CONFIGS: list[dict[str, Any]] = [
    {"page_size": 1},
    {"page_size": 16},
    {"page_size": 4, "schedule_policy": "lpm"},
    {"page_size": 1, "disable_radix_cache": True},
    {"page_size": 16, "disable_radix_cache": True},
    {"page_size": 1, "schedule_conservativeness": 0.0},
    {"page_size": 4, "enable_priority_scheduling": True, "schedule_conservativeness": 0.0},
    {"page_size": 16, "chunked_prefill_size": -1},
    {"page_size": 1, "disable_overlap_schedule": False},
    {"page_size": 16, "disable_overlap_schedule": False, "schedule_conservativeness": 0.0},
    {"page_size": 1, "disable_overlap_schedule": False, "disable_radix_cache": True},
]
WINDOW = 24
WINDOWS: dict[str, Any] = {
    "json_model_override_args": {"sliding_window": WINDOW},
    "swa_full_tokens_ratio": 0.3,
}
"""A window pool of 153 slots: a window, a chunk and few slots more."""
SWA_CONFIGS: list[dict[str, Any]] = [
    {"page_size": 1} | WINDOWS,
    {"page_size": 4, "schedule_policy": "lpm", "swa_full_tokens_ratio": 0.25} | WINDOWS,
    {"page_size": 16, "schedule_conservativeness": 0.0} | WINDOWS,
    {"page_size": 1, "disable_radix_cache": True} | WINDOWS,
    {"page_size": 1, "disable_overlap_schedule": False, "schedule_conservativeness": 0.0} | WINDOWS,
    {"page_size": 4, "chunked_prefill_size": -1} | WINDOWS | {"swa_full_tokens_ratio": 0.8},
    {"page_size": 4, "disable_hybrid_swa_memory": True} | WINDOWS,
]
CONFIGS += SWA_CONFIGS
SMALL = {
    "max_total_tokens": 512,
    "max_running_requests": 6,
    "chunked_prefill_size": 64,
    "context_length": 400,
    "max_prefill_tokens": 200,
}
MAX_LIVE = 12


class Walk:
    """The operations, each also a thing that a person could do."""

    def __init__(self, engine: Any, ids: Any, config: dict[str, Any]) -> None:
        self.e = engine(**(SMALL | config))
        self.ids = ids
        self.held: list[Any] = []
        self.locked: list[Any] = []
        self.paused = False
        self.has_windows = "json_model_override_args" in config
        self.window_held: list[Any] = []

    def post(
        self,
        *,
        family: int,
        shared: int,
        own: int,
        max_new_tokens: int,
        priority: int,
        twins: bool,
    ) -> None:
        if len(self.e.scheduler.requests) < MAX_LIVE:
            rid = f"r{len(self.e.prompts)}"
            prompt = [*self.ids(family, shared), *self.ids(rid, own)]
            for name in (rid, f"{rid}-twin") if twins else (rid,):
                self.e.post(name, prompt, max_new_tokens=max_new_tokens, priority=priority)

    def abort(self, which: int) -> None:
        live = list(self.e.scheduler.requests)
        if live:
            self.e.abort(live[which % len(live)])

    def abort_all(self) -> None:
        self.e.abort()

    def pause(self, mode: str) -> None:
        self.e.pause(mode)
        self.paused = True

    def resume(self) -> None:
        self.e.resume()
        self.paused = False

    def hold(self, pages: int) -> None:
        free = self.e.scheduler.token_to_kv_pool_allocator.available_size()
        pages = min(pages, free // self.e.scheduler.page_size)
        self.held.append(self.e.scheduler.holds.hold_pages(pages))

    def hold_window(self, pages: int) -> None:
        window = self.e.scheduler.memory.window
        if window is not None:
            free = window.allocator.swa_available_size() // window.allocator.page_size
            self.window_held.append(window.holds.hold(min(pages, free)))

    def release(self) -> None:
        for slots in self.window_held:
            self.e.scheduler.memory.window.holds.release(slots)
        self.window_held.clear()
        for slots in self.held:
            self.e.scheduler.holds.release_pages(slots)
        self.held.clear()

    def lock(self, which: int) -> None:
        nodes = list(self.e.scheduler.tree_cache.nodes())
        if nodes:
            self.locked.append(nodes[which % len(nodes)])
            self.e.lock(self.locked[-1])

    def unlock(self) -> None:
        while self.locked:
            self.e.unlock(self.locked.pop())

    def evict(self, family: int | None, length: int) -> None:
        prefix = None if family is None else self.ids(family, length)
        self.e.call(lambda scheduler: scheduler.tree_cache.evict_prefix(prefix))

    def flush(self) -> None:
        self.e.flush()

    def step(self, times: int) -> None:
        self.e.step(times)

    def finish(self) -> None:
        """Let everything end; every output is as foretold, and all memory is back."""
        self.release()
        self.unlock()
        self.resume()
        self.e.run()
        assert len(self.e.finishes) == len(self.e.prompts)
        for req in self.e.finishes:
            foretold = expected_output(
                self.e.prompts[req.rid],
                len(req.output_ids),
                sliding_window=WINDOW if self.has_windows else None,
            )
            assert req.output_ids == foretold, req
            if self.e.kind(req.rid) is FinishKind.LENGTH:
                assert len(req.output_ids) == req.max_new_tokens
            else:
                assert req.finished_reason is not None
                assert req.finished_reason.message
        assert self.e.scheduler.tree_cache.protected_size() == 0
        assert self.e.flush()
        assert self.e.scheduler.token_to_kv_pool_allocator.available_size() == 512
        window = self.e.scheduler.memory.window
        if window is not None:
            pool = window.allocator.swa_attn_allocator
            assert pool.available_size() == pool.size


def random_step(walk: Walk, rng: random.Random) -> None:
    chance = rng.random()
    if chance < 0.30:
        walk.post(
            family=rng.randrange(3),
            shared=rng.randrange(1, 120),
            own=rng.choice([0, rng.randrange(140)]),
            twins=rng.random() < 0.3,
            max_new_tokens=rng.randrange(1, 70),
            priority=rng.randrange(3),
        )
    elif chance < 0.34:
        walk.abort(rng.randrange(100))
    elif chance < 0.37:
        walk.pause(rng.choice(["retract", "in_place"]))
    elif chance < 0.41:
        walk.hold(rng.randrange(1, 60))
        walk.hold_window(rng.randrange(1, 20))
    elif chance < 0.46:
        walk.lock(rng.randrange(100))
    elif chance < 0.49:
        walk.evict(rng.choice([None, 0, 1, 2]), rng.randrange(60))
    elif chance < 0.51:
        walk.flush()
    elif chance < 0.515:
        walk.abort_all()
    elif chance < 0.60:
        walk.release()
        walk.unlock()
    elif chance < 0.70 and walk.paused:
        walk.resume()


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: "-".join(map(str, config.values())))
@pytest.mark.parametrize("seed", range(4))
def test_a_long_random_walk(engine: Any, ids: Any, config: dict[str, Any], seed: int) -> None:
    rng = random.Random(f"{seed} {sorted(config.items())}")
    walk = Walk(engine, ids, config)
    for _ in range(250):
        random_step(walk, rng)
        walk.step(1)
    walk.finish()
    retracted = sum(req.retraction_count for req in walk.e.finishes)
    assert retracted > 0, "this walk has met no pressure"


def test_random_walks_under_any_operations(engine: Any, ids: Any) -> None:
    class Machine(RuleBasedStateMachine):
        @initialize(config=st.sampled_from(CONFIGS))
        def start(self, config: dict[str, Any]) -> None:
            self.walk = Walk(engine, ids, config)

        @rule(
            family=st.integers(0, 2),
            shared=st.integers(1, 120),
            own=st.integers(0, 140),
            max_new_tokens=st.integers(1, 60),
            priority=st.integers(0, 2),
            twins=st.booleans(),
        )
        def post(self, **kwargs: Any) -> None:
            self.walk.post(**kwargs)

        @rule(which=st.integers(0, 20))
        def abort(self, which: int) -> None:
            self.walk.abort(which)

        @rule(mode=st.sampled_from(["retract", "in_place"]))
        def pause(self, mode: str) -> None:
            self.walk.pause(mode)

        @precondition(lambda self: self.walk.paused)
        @rule()
        def resume(self) -> None:
            self.walk.resume()

        @rule(pages=st.integers(1, 300))
        def hold(self, pages: int) -> None:
            self.walk.hold(pages)

        @rule(pages=st.integers(1, 100))
        def hold_window(self, pages: int) -> None:
            self.walk.hold_window(pages)

        @rule(which=st.integers(0, 20))
        def lock(self, which: int) -> None:
            self.walk.lock(which)

        @rule(family=st.none() | st.integers(0, 2), length=st.integers(0, 100))
        def evict(self, family: int | None, length: int) -> None:
            self.walk.evict(family, length)

        @rule()
        def give_back(self) -> None:
            self.walk.release()
            self.walk.unlock()

        @rule()
        def flush(self) -> None:
            self.walk.flush()

        @rule(times=st.integers(1, 12))
        def step(self, times: int) -> None:
            self.walk.step(times)

        def teardown(self) -> None:
            if hasattr(self, "walk"):
                self.walk.finish()

    case = Machine.TestCase
    case.settings = settings(
        max_examples=40,
        stateful_step_count=30,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    case().runTest()
