"""Overlap scheduling: results one iteration late, and yet the same outputs and exact memory."""

from __future__ import annotations

from typing import Any

import pytest
from scripted_reference import expected_output
from scripted_reference.messages import PauseMode
from scripted_reference.request import FinishKind
from scripted_registry.ci import register_cpu_ci

register_cpu_ci(est_time=1, stage="reference", runner_config="cpu")

OVERLAP = {"disable_overlap_schedule": False}


def test_a_result_is_processed_in_the_iteration_after_the_one_that_computes_it(engine: Any) -> None:
    e = engine(**OVERLAP)
    e.post("r", 20, max_new_tokens=3)
    e.step()
    assert e.where("r") == "running"
    assert (e.req("r").output_ids, len(e.scheduler.in_flight)) == ([], 1)
    e.step()
    assert len(e.req("r").output_ids) == 1
    e.step(2)
    assert e.where("r") == "done"
    e.expect_output("r")
    modes = [mode.value for mode, _, _ in e.batches]
    assert modes == ["extend", "decode", "decode", "decode"], "the last result is for nobody"


@pytest.mark.parametrize("page_size", [1, 16])
def test_the_slot_of_a_token_too_many_comes_back_once(engine: Any, page_size: int) -> None:
    plain, overlap = (engine(page_size=page_size, **kwargs) for kwargs in ({}, OVERLAP))
    # The last token that is fed back ends a page, so that the one too many begins another.
    prompt_len = 48 - 7
    for e in (plain, overlap):
        e.post("r", prompt_len, max_new_tokens=8)
        e.run()
        e.expect_output("r")
    free = [e.scheduler.token_to_kv_pool_allocator.available_size() for e in (plain, overlap)]
    cached = [e.scheduler.tree_cache.evictable_size() for e in (plain, overlap)]
    assert cached == [48, 48], "the token that is never fed back is not in the tree"
    assert free[0] == free[1]


@pytest.mark.parametrize("page_size", [1, 16])
@pytest.mark.parametrize("disable", [False, True])
def test_a_request_that_fills_the_pool_to_the_last_slot_is_not_aborted(
    engine: Any, page_size: int, disable: bool
) -> None:
    e = engine(
        max_total_tokens=64,
        chunked_prefill_size=32,
        page_size=page_size,
        disable_radix_cache=disable,
        **OVERLAP,
    )
    e.post("r", 50, max_new_tokens=15)
    e.run()
    e.expect_output("r")


def test_the_first_decode_reads_the_token_in_flight(engine: Any) -> None:
    e = engine(**OVERLAP)
    e.post("old", 30, max_new_tokens=20)
    e.step(4)
    e.post("new", 30, max_new_tokens=20)
    e.step()  # prefills the new one, and processes a decode of the old one
    seen = {rid: len(e.req(rid).output_ids) for rid in ("old", "new")}
    e.step()  # decodes both: one with a token that is known, one with a token in flight
    assert {rid: len(e.req(rid).output_ids) for rid in ("old", "new")} == {
        "old": seen["old"],
        "new": 1,
    }
    e.run()
    e.expect_output("old", "new")


@pytest.mark.parametrize("steps", range(1, 8))
@pytest.mark.parametrize("page_size", [1, 16])
def test_pause_retract_processes_what_is_in_flight_first(
    engine: Any, steps: int, page_size: int
) -> None:
    e = engine(chunked_prefill_size=64, page_size=page_size, **OVERLAP)
    e.post("other", 40, max_new_tokens=30)
    e.step(2)
    e.post("r", 150, max_new_tokens=6)
    e.step(steps)
    before = len(e.req("r").output_ids)
    was_decoding = e.req("r").kv_committed_len >= 150
    e.pause("retract")
    e.step()
    assert e.where("r") == e.where("other") == "waiting"
    assert len(e.req("r").output_ids) == before + was_decoding
    assert len(e.scheduler.in_flight) == 0
    e.resume()
    e.run()
    e.expect_output("r", "other")


def test_pause_in_place_leaves_everything_as_it_is(engine: Any) -> None:
    e = engine(**OVERLAP)
    e.post("r", 20, max_new_tokens=9)
    e.step(3)
    e.pause("in_place")
    e.step()
    before = list(e.req("r").output_ids)
    e.step(3)
    assert e.req("r").output_ids == before
    assert len(e.scheduler.in_flight) == 1
    assert e.scheduler.paused is PauseMode.IN_PLACE
    e.resume()
    e.run()
    e.expect_output("r")


@pytest.mark.parametrize("page_size", [1, 16])
@pytest.mark.parametrize("steps", range(1, 9))
def test_an_abort_in_flight_ends_the_request_once(engine: Any, steps: int, page_size: int) -> None:
    e = engine(chunked_prefill_size=64, page_size=page_size, **OVERLAP)
    e.post("other", 40, max_new_tokens=30)
    e.step()
    e.post("r", 150, max_new_tokens=6)
    e.step(steps)
    e.abort("r")
    e.step()
    assert e.where("r") == "done"
    aborted = e.finished("r")
    assert e.kind("r") is FinishKind.ABORT
    e.post("again", e.prompts["r"], max_new_tokens=6)
    e.run()
    e.expect_output("other", "again")
    assert aborted.output_ids == expected_output(e.prompts["r"], 6)[: len(aborted.output_ids)]


def test_a_rid_can_be_used_again_while_the_result_of_its_last_owner_is_in_flight(
    engine: Any, ids: Any
) -> None:
    e = engine(**OVERLAP)
    e.post("r", 30, max_new_tokens=8)
    e.step(3)
    e.abort("r")
    e.step()
    assert e.finishes.pop().rid == "r"
    e.streams.clear()
    e.post("r", ids("another", 30), max_new_tokens=8)
    e.run()
    e.expect_output("r")


def test_a_retraction_for_memory_loses_the_token_in_flight_and_it_comes_again(engine: Any) -> None:
    e = engine(max_total_tokens=128, schedule_conservativeness=0.0, **OVERLAP)
    e.post("first", 30, max_new_tokens=60)
    e.post("second", 31, max_new_tokens=60)
    e.step()
    e.step_until(lambda: any(req.retraction_count for req in e.scheduler.requests.values()))
    victim = next(req for req in e.scheduler.requests.values() if req.retraction_count)
    assert e.where(victim.rid) == "waiting"
    had = len(victim.output_ids)
    # A decode of both was in flight, and so was counted for the other one only.
    (other,) = e.scheduler.running_batch.reqs
    assert len(other.output_ids) == had + 1
    e.run()
    e.expect_output("first", "second")


def test_a_flush_waits_for_what_is_in_flight(engine: Any) -> None:
    e = engine(**OVERLAP)
    e.post("r", 20, max_new_tokens=2)
    e.step()
    e.step_until(lambda: e.scheduler.is_idle)
    assert not e.scheduler.is_fully_idle()
    assert not e.flush()
    assert e.scheduler.is_fully_idle()
    assert e.flush()


@pytest.mark.parametrize("page_size", [1, 16])
def test_a_chunked_request_is_where_it_would_be_without_overlap(
    engine: Any, page_size: int
) -> None:
    plain, overlap = (
        engine(chunked_prefill_size=64, page_size=page_size, **kwargs) for kwargs in ({}, OVERLAP)
    )
    for e in (plain, overlap):
        e.post("r", 200, max_new_tokens=4)
        where = []
        for _ in range(4):
            e.step()
            where.append((e.where("r"), e.batches[-1]))
        e.run()
        e.expect_output("r")
        e.trail = where
    assert plain.trail == overlap.trail
