"""The emulated pause of a pipeline, slot by slot, on a scheduler in plain Python."""

from __future__ import annotations

import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from scripted_registry.ci import register_cpu_ci
from scripted_sglang import _compat
from scripted_sglang.pipeline import PipelinePause

register_cpu_ci(est_time=1, stage="unit", runner_config="cpu")

SLOTS = 2


@pytest.fixture(autouse=True)
def without_sglang(monkeypatch: pytest.MonkeyPatch) -> None:
    """What it imports of SGLang's."""
    batches = ModuleType("schedule_batch")
    batches.NextBatchPlan = SimpleNamespace  # type: ignore[attr-defined]
    batches.FINISH_ABORT = lambda: "aborted"  # type: ignore[attr-defined]
    managers = ModuleType("managers")
    managers.schedule_batch = batches  # type: ignore[attr-defined]
    for name in ("sglang", "sglang.srt"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    monkeypatch.setitem(sys.modules, "sglang.srt.managers", managers)
    monkeypatch.setitem(sys.modules, "sglang.srt.managers.schedule_batch", batches)


class Pipeline:
    """A scheduler's loop over its slots, with the parts that a pause is about."""

    def __init__(self, fakes: Any, *, stages: int = SLOTS) -> None:
        self.fakes = fakes
        self.scheduler = fakes.scheduler(
            _engine_paused=False,
            running_mbs=[fakes.batch() for _ in range(SLOTS)],
            mbs=[None] * SLOTS,
            last_mbs=[None] * SLOTS,
        )
        self.pause_of = PipelinePause(self.scheduler, stages=stages)
        self.slot = 0
        self.planned = 0
        self.retracted: list[list[str]] = []
        self.resumed = 0

    def request(self, rid: str) -> Any:
        return self.fakes.request(rid, kv={"req_pool_idx": 1, "kv_allocated_len": 4})

    def _pause(self, scheduler: Any, request: Any) -> None:
        scheduler._engine_paused = True
        if request.mode == "retract":
            self.retracted.append([req.rid for req in scheduler.running_batch.reqs])
            scheduler.waiting_queue += scheduler.running_batch.reqs
            scheduler.running_batch.reqs = []
            scheduler.chunked_req = None

    def _continue(self, scheduler: Any, request: Any) -> None:
        scheduler._engine_paused = False
        self.resumed += 1

    def _plan(self, scheduler: Any, *, running_batch: Any, last_batch: Any) -> Any:
        self.planned += 1
        return SimpleNamespace(batch_to_run=running_batch, running_batch=running_batch)

    def pause(self, mode: str) -> None:
        self.pause_of.pause(self._pause, SimpleNamespace(mode=mode))

    def resume(self) -> None:
        self.pause_of.resume(self._continue, SimpleNamespace())

    def one_slot(self) -> None:
        """As SGLang's loop goes through a slot, after it has received."""
        scheduler, slot = self.scheduler, self.slot
        scheduler.running_batch = scheduler.running_mbs[slot]
        scheduler.last_batch = scheduler.last_mbs[slot]
        plan = self.pause_of.plan(
            self._plan, running_batch=scheduler.running_batch, last_batch=scheduler.last_batch
        )
        scheduler.running_mbs[slot] = plan.running_batch
        batch = plan.batch_to_run
        scheduler.mbs[slot] = batch if batch is not None and batch.reqs else None
        after = (slot + 1) % SLOTS
        if scheduler.mbs[after] is not None:
            scheduler.last_mbs[after] = scheduler.mbs[after]
        self.slot = after


@pytest.fixture
def pipeline(fakes: Any) -> Pipeline:
    made = Pipeline(fakes)
    for slot, rid in enumerate(("a", "b")):
        made.scheduler.running_mbs[slot].reqs = [made.request(rid)]
    for _ in range(2 * SLOTS):
        made.one_slot()
    assert made.planned == 2 * SLOTS
    return made


def test_nothing_is_planned_while_paused_in_place(pipeline: Pipeline) -> None:
    pipeline.pause("in_place")
    planned = pipeline.planned
    for _ in range(5):
        pipeline.one_slot()
    assert pipeline.planned == planned
    assert pipeline.retracted == []
    pipeline.resume()
    pipeline.one_slot()
    assert pipeline.planned == planned + 1


def test_a_retraction_takes_all_microbatches_at_once_when_nothing_is_in_flight(
    pipeline: Pipeline,
) -> None:
    pipeline.pause("retract")
    for _ in range(SLOTS):
        pipeline.one_slot()
        assert pipeline.retracted == []
    pipeline.one_slot()
    assert [sorted(rids) for rids in pipeline.retracted] == [["a", "b"]]
    scheduler = pipeline.scheduler
    assert [batch.reqs for batch in scheduler.running_mbs] == [[], []]
    assert scheduler.last_mbs == [None, None]
    pipeline.one_slot()
    assert len(pipeline.retracted) == 1


def test_a_request_in_several_microbatches_is_retracted_once(pipeline: Pipeline) -> None:
    chunked = pipeline.request("c")
    scheduler = pipeline.scheduler
    scheduler.chunked_req = chunked
    pipeline.pause("retract")
    for _ in range(SLOTS):
        pipeline.one_slot()
    for slot in range(SLOTS):
        scheduler.last_mbs[slot] = pipeline.fakes.batch(chunked)
    pipeline.one_slot()
    assert [sorted(rids) for rids in pipeline.retracted] == [["a", "b", "c"]]


def test_a_continue_before_the_retraction_is_deferred_and_what_follows_it_too(
    pipeline: Pipeline,
) -> None:
    pipeline.pause("retract")
    pipeline.resume()
    pipeline.pause("in_place")
    for _ in range(SLOTS):
        pipeline.one_slot()
        assert (pipeline.resumed, pipeline.scheduler._engine_paused) == (0, True)
    pipeline.one_slot()
    assert (len(pipeline.retracted), pipeline.resumed) == (1, 1)
    assert pipeline.scheduler._engine_paused, "the last word was a pause"
    pipeline.resume()
    assert not pipeline.scheduler._engine_paused


def test_a_deferred_continue_plans_in_the_slot_of_the_retraction(pipeline: Pipeline) -> None:
    pipeline.pause("retract")
    pipeline.resume()
    for _ in range(SLOTS):
        pipeline.one_slot()
    planned = pipeline.planned
    pipeline.one_slot()
    assert pipeline.planned == planned + 1


def test_what_was_prefilled_last_is_aborted_and_keeps_a_paused_pipeline_from_idleness(
    pipeline: Pipeline,
) -> None:
    scheduler = pipeline.scheduler
    prefilled, other = pipeline.request("p"), pipeline.request("q")
    scheduler.last_mbs[0] = pipeline.fakes.batch(prefilled, other)
    pipeline.pause("in_place")
    assert not pipeline.pause_of.is_fully_idle(True)
    pipeline.pause_of.abort(SimpleNamespace(abort_all=False, rid="p"))
    assert prefilled.to_finish == _compat.abort_finish()
    assert not hasattr(other, "to_finish")
    scheduler.last_mbs[:] = [None, None]
    assert pipeline.pause_of.is_fully_idle(True)
    assert not pipeline.pause_of.is_fully_idle(False)


def test_without_a_pipeline_all_is_left_to_sglang(fakes: Any) -> None:
    alone = Pipeline(fakes, stages=1)
    alone.pause("retract")
    assert alone.retracted == [[]]
    alone.resume()
    alone.pause("in_place")
    alone.one_slot()
    assert alone.planned == 1, "its own loop looks at the pause"
