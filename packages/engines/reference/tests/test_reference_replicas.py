"""Data parallelism: replicas in lockstep, seen as one engine, and scripts through a session."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from scripted_core import InProcessSession, LeakDetected
from scripted_core.capabilities import Capability
from scripted_core.errors import ExhaustError
from scripted_reference import expected_output
from scripted_reference.adapter import ReferenceAdapter
from scripted_reference.engine import Engine
from scripted_reference.engine_kwargs import parse_engine_kwargs
from scripted_reference.messages import (
    AbortReq,
    CallReq,
    FlushCacheReq,
    GenerateReq,
    PauseMode,
    PauseReq,
)
from scripted_reference.request import Req, SamplingParams
from scripted_reference.schedule_batch import ScheduleBatch
from scripted_registry.ci import register_cpu_ci

register_cpu_ci(est_time=1, stage="reference", runner_config="cpu")


class Watcher:
    """Counts iterations and batches, and keeps what ended."""

    def __init__(self) -> None:
        self.receives = 0
        self.batches: list[tuple[int, list[str]]] = []
        self.finishes: list[Req] = []

    def before_receive(self) -> None:
        self.receives += 1

    def on_run_batch(self, batch: ScheduleBatch) -> None:
        self.batches.append((self.receives, [req.rid for req in batch.reqs]))

    def on_output(self, reqs: Sequence[Req]) -> None:
        pass

    def on_finish(self, req: Req) -> None:
        self.finishes.append(req)


def start(**kwargs: object) -> tuple[Engine, Watcher]:
    watcher = Watcher()
    return Engine(parse_engine_kwargs({"dp_size": 3, **kwargs}), observer=watcher), watcher


def request(rid: str, *, dp_rank: int | None = None, n: int = 4) -> GenerateReq:
    return GenerateReq(
        rid=rid,
        input_ids=[ord(rid[0]), 7, 8, 9],
        sampling_params=SamplingParams(max_new_tokens=n, ignore_eos=True),
        dp_rank=dp_rank,
    )


def ranks(engine: Engine) -> dict[str, int]:
    return {rid: rank for rank, one in enumerate(engine.schedulers) for rid in one.requests}


def test_requests_go_to_their_rank_or_take_turns() -> None:
    engine, watcher = start()
    for rid, rank in (("a", None), ("x", 2), ("b", None), ("c", None), ("d", None)):
        engine.post(request(rid, dp_rank=rank))
    engine.iterate()
    assert ranks(engine) == {"a": 0, "x": 2, "b": 1, "c": 2, "d": 0}
    assert watcher.batches == [(1, ["a", "d"]), (1, ["b"]), (1, ["x", "c"])]
    assert list(engine.requests) == ["a", "d", "b", "x", "c"]
    while not engine.is_fully_idle():
        engine.iterate()
    assert watcher.receives == 4, "one call of the observer for each iteration of all"
    assert len(watcher.finishes) == 5
    for req in watcher.finishes:
        assert req.output_ids == expected_output(req.origin_input_ids, 4)
    engine.restart_turns()
    engine.post(request("e"))
    engine.iterate()
    assert ranks(engine) == {"e": 0}


def test_what_no_replica_can_take_is_refused() -> None:
    engine, _ = start()
    assert "0 to 2 here (dp_size=3), got 3" in str(engine.validate(request("a", dp_rank=3)))
    assert "got -1" in str(engine.validate(request("a", dp_rank=-1)))
    engine.post(request("a", dp_rank=2))
    assert "in use" in str(engine.validate(request("a", dp_rank=0)))
    engine.iterate()
    assert "in use" in str(engine.validate(request("a", dp_rank=0)))
    assert engine.validate(request("b", dp_rank=0)) is None


def test_control_reaches_all_and_a_flush_is_answered_once() -> None:
    engine, watcher = start()
    replies: list[bool] = []
    calls: list[int] = []
    engine.post(request("a", dp_rank=0, n=1))
    engine.post(request("b", dp_rank=1, n=50))
    engine.iterate()
    assert engine.scheduler.is_idle
    assert not engine.is_idle
    engine.post(FlushCacheReq(replies.append))
    engine.post(CallReq(lambda one: calls.append(engine.schedulers.index(one))))
    engine.iterate()
    assert replies == [False]
    assert calls == [0, 1, 2]
    assert engine.scheduler.tree_cache.evictable_size() > 0, "a refused flush changes nothing"
    engine.post(AbortReq("b"))
    engine.post(PauseReq(PauseMode.RETRACT))
    engine.post(FlushCacheReq(replies.append))
    engine.iterate()
    assert replies == [False, True]
    assert [one.paused for one in engine.schedulers] == [PauseMode.RETRACT] * 3
    assert [req.rid for req in watcher.finishes] == ["a", "b"]
    assert [one.tree_cache.evictable_size() for one in engine.schedulers] == [0, 0, 0]


def test_what_lies_behind_a_message_that_fails_stays_in_the_inbox() -> None:
    engine, _ = start()

    def fail(_: object) -> None:
        raise RuntimeError("as meant")

    engine.post(CallReq(fail))
    engine.post(request("a"))
    with pytest.raises(RuntimeError, match="as meant"):
        engine.iterate()
    engine.iterate()
    assert list(engine.requests) == ["a"]


@pytest.fixture(scope="module", params=[True, False], ids=["plain", "overlap"])
def session(request):
    with InProcessSession.start(
        backend="reference",
        dp_size=2,
        max_total_tokens=512,
        max_running_requests=4,
        page_size=4,
        chunked_prefill_size=64,
        disable_overlap_schedule=request.param,
    ) as session:
        yield session


def script_of_two_replicas(t):
    a = t.start_req(prompt_len=100, seed=1, max_new_tokens=6, dp_rank=0, ignore_eos=True)
    b = t.start_req(prompt_len=150, seed=2, max_new_tokens=6, dp_rank=1, ignore_eos=True)
    yield
    assert set(t.queues.chunked) == {a.rid, b.rid}
    assert {pool.pool for pool in t.hook.adapter.audit().pools} == {"full", "full@1"}
    stats = t.engine_stats()
    assert (stats["req_pool_total"], stats["req_pool_free"]) == (8, 6)
    assert stats["kv_pool_full@1_free"] == stats["kv_pool_full@1_total"] - 16
    rows = t.hook.adapter.audit().rows
    assert sorted(rows.by_request.values()) == [0, 4]
    assert sorted([*rows.free, *rows.by_request.values()]) == list(range(8))
    t.pause_generation(mode="retract")
    yield
    assert set(t.queues.waiting) == {a.rid, b.rid}
    t.continue_generation()
    while not (a.finished and b.finished):
        yield
    for handle in (a, b):
        prompt = t.hook.ledger.specs[handle.rid].input_ids
        assert handle.output_ids == expected_output(prompt, 6) == handle.client.token_ids


def test_scripts_see_both_replicas(session):
    digests = set()
    for _ in range(2):
        session.execute_script(script_of_two_replicas)
        digests.add(session.event_digest())
    assert len(digests) == 1


def script_that_takes_turns(t):
    for rid in ("a", "b", "c"):
        t.start_req(prompt_len=5, rid=rid, max_new_tokens=4, ignore_eos=True)
    yield
    assert set(t.scheduler.requests) == {"a", "c"}


def test_each_script_begins_at_replica_0(session):
    for _ in range(2):
        session.execute_script(script_that_takes_turns)


def script_that_exhausts(t):
    pools = t.engine.kv_pools
    t.start_req(prompt_len=61, max_new_tokens=1, dp_rank=1)
    for _ in range(3):
        yield
    assert pools["full@1"].evictable == 15
    t.exhaust_kv(leave_pages=3)
    yield
    left = {name: pool.available + pool.evictable for name, pool in pools.items()}
    assert left == {"full": 3, "full@1": 3}
    t.release_exhausted()
    yield
    assert [pool.held for pool in pools.values()] == [0, 0]
    t.exhaust_kv(leave_pages=3, pool="full@1")
    yield
    assert (pools["full"].held, pools["full@1"].available + pools["full@1"].evictable) == (0, 3)
    t.exhaust_kv(leave_pages=100)  # replica 0 has them, replica 1 has not
    with pytest.raises(ExhaustError, match="'full@1'"):
        yield
    assert pools["full"].held == 0, "all or none"
    t.exhaust("rows", leave_rows=3)
    yield
    assert t.engine.rows.available == 3
    assert [one.req_to_token_pool.available_size() for one in _schedulers(t)] == [3, 0]


def _schedulers(t):
    return t.hook.adapter.engine.schedulers


def test_exhaust_kv_means_every_replica(session):
    session.execute_script(script_that_exhausts)


def script_that_asks_for_a_third_replica(t):
    refused = t.start_req(prompt_len=4, dp_rank=2)
    assert "dp_rank is 0 to 1 here" in refused.finish_reason.message
    yield


def test_a_front_refuses_a_rank_that_is_not_there(session):
    session.execute_script(script_that_asks_for_a_third_replica)


@pytest.mark.parametrize(
    ("kwargs", "capability"),
    [
        ({"dp_size": 2}, Capability.DP),
        ({"disable_overlap_schedule": False}, Capability.OVERLAP),
        ({"disable_radix_cache": False}, Capability.PREFIX_CACHE),
        ({"enable_priority_scheduling": True}, Capability.PRIORITY),
    ],
)
def test_the_adapter_says_what_the_engine_can_do(kwargs, capability):
    flipped = {name: 1 if name == "dp_size" else not value for name, value in kwargs.items()}
    for given, has in ((kwargs, True), (flipped, False)):
        adapter = ReferenceAdapter(Engine(parse_engine_kwargs(given)))
        assert (capability in adapter.capabilities) is has
        assert adapter.quiesce_steps == (Capability.OVERLAP in adapter.capabilities)
        assert not adapter.capabilities & {Capability.LOGPROBS, Capability.LORA}


def script_that_leaks_in_the_second_replica(t):
    t.start_req(prompt_len=5, max_new_tokens=9, dp_rank=1, ignore_eos=True)
    yield
    _schedulers(t)[1].token_to_kv_pool_allocator.alloc(4)
    yield
    yield


def test_a_leak_in_the_second_replica_is_found_and_named():
    with (
        InProcessSession.start(backend="reference", dp_size=2, page_size=4) as session,
        pytest.raises(LeakDetected, match="pool 'full@1': 1 pages have no owner"),
    ):
        session.execute_script(script_that_leaks_in_the_second_replica)
