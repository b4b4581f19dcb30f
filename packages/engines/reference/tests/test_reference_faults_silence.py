"""That the invariants raise no alarm on a sound engine: 10,000 random iterations, all checks on."""

from __future__ import annotations

import random

import pytest
from scripted_core import InProcessSession
from scripted_reference import expected_output
from scripted_registry.ci import register_cpu_ci

register_cpu_ci(est_time=5, stage="reference", runner_config="cpu")

_STEPS = 2500
_POOL_TOKENS = 1024
_MAX_LIVE = 12
_NEW_TOKENS = 60


class _Walk:
    """What a person could do to an engine by a script, drawn at random."""

    def __init__(self, t, *, seed):
        self.t = t
        self.rng = random.Random(seed)
        self.live = []
        self.ended = []
        self.prompts = {}
        self.retracted = set()

    def act(self):
        """One operation, or none; most of the time requests arrive and run."""
        rng, t = self.rng, self.t
        chance = rng.random()
        if chance < 0.30 and len(self.live) < _MAX_LIVE:
            self._start()
        elif chance < 0.34 and self.live:
            t.abort(rng.choice(self.live))
        elif chance < 0.37:
            t.pause_generation(mode=rng.choice(["retract", "in_place"]))
        elif chance < 0.40:
            stats = t.engine_stats()
            reachable = stats["kv_pool_free"] + stats["kv_pool_evictable"]
            t.exhaust_kv(leave_pages=rng.randint(reachable // 2, reachable))
        elif chance < 0.42:
            t.exhaust_lock_refs(leave_refs=rng.randrange(3))
        elif chance < 0.44:
            t.exhaust("rows", leave_rows=min(2, t.engine_stats()["req_pool_free"]))
        elif chance < 0.47:
            t.evict_radix(prefix_tokens=rng.choice([None, self._prompt(rng.randrange(3), 20)]))
        elif chance < 0.49:
            t.flush_cache()
        elif chance < 0.493:
            t.abort_all()
        elif chance < 0.56:
            t.release_exhausted()
        elif chance < 0.62:
            t.continue_generation()

    def _start(self):
        rng = self.rng
        prompt = self._prompt(rng.randrange(3), rng.randrange(1, 120))
        prompt += self._prompt(rng.random(), rng.choice([0, rng.randrange(140)]))
        for _ in range(rng.choice([1, 1, 2])):
            handle = self.t.start_req(
                input_ids=prompt, max_new_tokens=rng.randrange(1, _NEW_TOKENS), ignore_eos=True
            )
            self.prompts[handle.rid] = prompt
            self.live.append(handle)

    def _prompt(self, family, length):
        rng = random.Random(str(family))
        return [rng.randrange(3, 32_000) for _ in range(length)]

    def look(self):
        """Every request that has ended has put out what is foretold of its prompt."""
        waiting = self.t.queues.waiting
        self.retracted |= {r.rid for r in self.live if r.output_ids and r.rid in waiting}
        for handle in [r for r in self.live if r.finished]:
            self.live.remove(handle)
            self.ended.append(handle)
            output = handle.output_ids
            assert output == expected_output(self.prompts[handle.rid], len(output))


@pytest.mark.parametrize("overlap", [False, True], ids=["serial", "overlap"])
@pytest.mark.parametrize("page_size", [1, 16])
def test_no_alarm_without_a_fault(page_size, overlap):
    with InProcessSession.start(
        backend="reference",
        page_size=page_size,
        disable_overlap_schedule=not overlap,
        chunked_prefill_size=64,
        max_total_tokens=_POOL_TOKENS,
        max_running_requests=6,
        context_length=400,
    ) as session:
        session.execute_script(_random_walk, args=(f"{page_size} {overlap}",))
        # The clean end counts too: every client is compared with the engine there.
        assert session.last_checks.iterations > _STEPS


def _random_walk(t, seed):
    walk = _Walk(t, seed=seed)
    for _ in range(_STEPS):
        walk.act()
        yield
        walk.look()
    t.release_exhausted()
    t.continue_generation()
    while walk.live:
        yield
        walk.look()
    assert len(walk.ended) > 200
    assert len(walk.retracted) > 10, "this walk has met no pressure"
