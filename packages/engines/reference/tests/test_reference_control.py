from __future__ import annotations

from typing import Any

import pytest
from scripted_reference import expected_output
from scripted_reference.errors import HoldError
from scripted_reference.messages import PauseMode
from scripted_reference.request import FinishKind
from scripted_registry.ci import register_cpu_ci

register_cpu_ci(est_time=4, stage="reference", runner_config="cpu")

STAGES = ("queued", "first_chunk", "last_chunk", "first_decode", "mid_decode", "last_decode")
MAX_NEW = 8


def at_stage(engine: Any, stage: str, *, page_size: int = 1, **kwargs: Any) -> Any:
    """An engine with request `r` at a stage of its life, next to a decoding `other`."""
    e = engine(chunked_prefill_size=64, page_size=page_size, **kwargs)
    e.post("other", 40, max_new_tokens=60)
    e.step()
    if stage == "queued":
        e.call(
            lambda scheduler: scheduler.holds.hold_rows(
                scheduler.req_to_token_pool.available_size()
            )
        )
    e.post("r", 150, max_new_tokens=MAX_NEW)
    e.step()
    if stage in ("queued", "first_chunk"):
        return e
    req = e.req("r")
    if stage == "last_chunk":
        e.step_until(lambda: req.kv_committed_len == 128)
    else:
        wanted = {"first_decode": 2, "mid_decode": 5, "last_decode": MAX_NEW - 1}[stage]
        e.step_until(lambda: len(req.output_ids) == wanted)
    return e


def free_rows(e: Any) -> None:
    e.call(lambda scheduler: scheduler.holds.release_rows(list(scheduler.holds.rows())))


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("page_size", [1, 16])
def test_pause_retract(engine: Any, stage: str, page_size: int) -> None:
    e = at_stage(engine, stage, page_size=page_size)
    before = {rid: list(e.req(rid).output_ids) for rid in ("r", "other")}
    e.pause("retract")
    e.step()
    assert e.scheduler.paused is PauseMode.RETRACT
    for rid in ("r", "other"):
        assert e.where(rid) == "waiting"
        assert e.req(rid).req_pool_idx is None
    assert e.scheduler.tree_cache.protected_size() == 0
    assert e.scheduler.last_batch is None
    e.post("late", 10)
    e.step(3)
    assert e.where("late") == "waiting"
    assert before == {rid: e.req(rid).output_ids for rid in ("r", "other")}
    free_rows(e)
    e.resume()
    e.run()
    e.expect_output("r", "other", "late")


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("page_size", [1, 16])
def test_pause_in_place(engine: Any, stage: str, page_size: int) -> None:
    e = at_stage(engine, stage, page_size=page_size)
    places = {rid: e.where(rid) for rid in ("r", "other")}
    before = {rid: (list(e.req(rid).output_ids), e.req(rid).kv_committed_len) for rid in places}
    e.pause("in_place")
    e.post("late", 10)
    e.step(3)
    assert places == {rid: e.where(rid) for rid in places}
    assert before == {rid: (e.req(rid).output_ids, e.req(rid).kv_committed_len) for rid in places}
    assert e.where("late") == "waiting"
    free_rows(e)
    e.resume()
    e.run()
    e.expect_output("r", "other", "late")
    assert e.finished("r").retraction_count == 0


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("page_size", [1, 16])
@pytest.mark.parametrize("everything", [False, True])
def test_abort(engine: Any, stage: str, page_size: int, everything: bool) -> None:
    e = at_stage(engine, stage, page_size=page_size)
    produced = list(e.req("r").output_ids)
    e.abort(None if everything else "r")
    e.step()
    assert e.kind("r") is FinishKind.ABORT
    assert e.finished("r").finished_reason.message == "aborted"
    assert e.finished("r").output_ids == produced
    assert (e.where("other") == "done") is everything
    free_rows(e)
    e.run()
    if not everything:
        e.expect_output("other")
    assert e.scheduler.tree_cache.protected_size() == 0
    assert e.flush()
    assert e.scheduler.token_to_kv_pool_allocator.available_size() == 8192


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("everything", [False, True])
def test_an_abort_while_paused_in_place_takes_effect_at_continue(
    engine: Any, stage: str, everything: bool
) -> None:
    e = at_stage(engine, stage)
    place = e.where("r")
    e.pause("in_place")
    e.step()
    e.abort(None if everything else "r")
    e.step()
    e.post("late", 10)
    e.step(2)
    assert e.where("r") == place
    free_rows(e)
    e.resume()
    e.step()
    assert e.kind("r") is FinishKind.ABORT
    e.run()
    e.expect_output("late")
    assert (e.kind("other") is FinishKind.ABORT) is everything


@pytest.mark.parametrize("stage", STAGES)
def test_an_abort_while_retracted_is_immediate(engine: Any, stage: str) -> None:
    e = at_stage(engine, stage)
    e.pause("retract")
    e.step()
    e.abort("r")
    e.step()
    assert e.kind("r") is FinishKind.ABORT
    assert e.where("other") == "waiting"
    free_rows(e)
    e.resume()
    e.run()
    e.expect_output("other")


def test_messages_take_effect_in_their_order(engine: Any) -> None:
    e = engine()
    e.post("early", 10)
    e.abort()
    e.post("late", 10)
    e.step()
    assert (e.where("early"), e.where("late")) == ("done", "running")
    e.pause("in_place")
    e.resume()
    e.step()
    assert len(e.req("late").output_ids) == 2


def test_an_abort_of_nobody_changes_nothing(engine: Any) -> None:
    e = engine()
    e.post("abc", 10)
    e.step()
    e.abort("ab")
    e.abort("abcd")
    e.run()
    e.expect_output("abc")


def test_aborting_twice_reports_once(engine: Any) -> None:
    e = engine()
    e.post("r", 10)
    e.pause("in_place")
    e.step()
    e.abort("r")
    e.abort()
    e.abort("r")
    e.step()
    e.resume()
    e.step()
    assert e.kind("r") is FinishKind.ABORT


def test_in_place_can_turn_into_retract_but_not_back(engine: Any) -> None:
    e = at_stage(engine, "mid_decode")
    e.pause("in_place")
    e.step()
    assert e.where("r") == "running"
    e.pause("retract")
    e.step()
    assert e.where("r") == "waiting"
    e.pause("in_place")
    e.step()
    e.abort("r")
    e.step()
    assert e.kind("r") is FinishKind.ABORT
    with pytest.raises(ValueError, match="sideways"):
        e.scheduler.pause("sideways")


def test_a_resume_without_a_pause_changes_nothing(engine: Any) -> None:
    e = engine()
    e.post("r", 10)
    e.step()
    e.resume()
    e.run()
    e.expect_output("r")


def test_a_pause_of_an_idle_engine(engine: Any) -> None:
    for mode in ("retract", "in_place"):
        e = engine()
        e.pause(mode)
        e.step()
        assert e.scheduler.is_fully_idle()
        e.post("r", 10)
        e.step(2)
        assert not e.scheduler.is_idle
        assert e.where("r") == "waiting"
        e.resume()
        e.run()
        e.expect_output("r")


def test_retracting_again_and_again_changes_no_token(engine: Any) -> None:
    e = engine(chunked_prefill_size=32)
    e.post("a", 50, max_new_tokens=12)
    e.post("b", 70, max_new_tokens=12)
    for _ in range(12):
        e.step(3)
        e.pause("retract")
        e.step()
        e.resume()
    e.run()
    e.expect_output("a", "b")
    assert e.finished("b").retraction_count > 3


def test_a_retracted_request_leaves_its_prompt_and_computes_its_output_again(engine: Any) -> None:
    e = engine()
    e.post("r", 30, max_new_tokens=12)
    e.step(5)
    e.pause("retract")
    e.step()
    assert e.scheduler.tree_cache.evictable_size() == 30
    e.resume()
    e.run()
    assert e.computed("r") == [30, 5]
    e.expect_output("r")


# --- flush


def test_flush_when_idle_empties_the_tree(engine: Any) -> None:
    e = engine()
    e.post("r", 30)
    e.run()
    assert e.scheduler.tree_cache.evictable_size() > 30
    assert e.flush()
    assert list(e.scheduler.tree_cache.nodes()) == []
    e.post("again", e.prompts["r"])
    e.run()
    assert e.computed("again") == [30]
    e.expect_output("r", "again")


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("paused", [None, "retract", "in_place"])
def test_flush_when_busy_is_refused(engine: Any, stage: str, paused: str | None) -> None:
    e = at_stage(engine, stage)
    if paused:
        e.pause(paused)
        e.step()
    cached = e.scheduler.tree_cache.evictable_size() + e.scheduler.tree_cache.protected_size()
    if stage != "last_decode" or paused:
        assert not e.flush()
        assert (
            e.scheduler.tree_cache.evictable_size() + e.scheduler.tree_cache.protected_size()
            >= cached
        )
    free_rows(e)
    e.resume()
    e.run()
    e.expect_output("r", "other")


def test_flush_right_after_the_last_finish(engine: Any) -> None:
    e = engine()
    e.post("r", 30, max_new_tokens=2)
    e.step(2)
    assert e.where("r") == "done"
    assert e.flush()


def test_flush_judges_by_what_came_before_it(engine: Any) -> None:
    e = engine()
    e.post("r", 10)
    assert not e.flush()
    e.run()
    replies: list[bool] = []
    e.call(lambda scheduler: replies.append(scheduler.flush_cache()))
    e.post("late", 10)
    e.step()
    assert replies == [True]
    assert e.where("late") == "running"


def test_a_lock_from_outside_keeps_the_tree(engine: Any) -> None:
    e = engine()
    e.post("r", 30)
    e.run()
    node = next(iter(e.scheduler.tree_cache.nodes()))
    e.lock(node)
    assert not e.flush()
    e.step(5)
    e.unlock(node)
    assert e.flush()


# --- calls


def test_evict_prefix_in_the_inbox(engine: Any) -> None:
    e = engine()
    e.post("a", 20)
    e.post("b", 20)
    e.run()
    e.call(lambda scheduler: scheduler.tree_cache.evict_prefix(e.prompts["a"]))
    e.step()
    tree = e.scheduler.tree_cache
    assert len(tree.match_prefix(e.prompts["a"]).indices) == 0
    assert len(tree.match_prefix(e.prompts["b"]).indices) == 20


def test_what_follows_a_call_that_fails_is_not_lost(engine: Any) -> None:
    e = engine()
    e.call(lambda scheduler: scheduler.holds.hold_pages(10**6))
    e.post("r", 10)
    with pytest.raises(HoldError):
        e.step()
    e.run()
    e.expect_output("r")


def test_a_request_aborted_mid_way_leaves_valid_kv(engine: Any) -> None:
    e = at_stage(engine, "mid_decode")
    tokens = [*e.prompts["r"], *e.req("r").output_ids]
    e.abort("r")
    e.step()
    e.post("again", tokens)
    e.step()
    assert e.computed("again") == [1]
    assert e.req("again").output_ids == expected_output(tokens, 1)
