from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from scripted_reference import expected_output
from scripted_reference.messages import GenerateReq
from scripted_reference.request import FinishKind, SamplingParams
from scripted_reference.schedule_batch import ForwardMode
from scripted_registry.ci import register_cpu_ci

register_cpu_ci(est_time=3, stage="reference", runner_config="cpu")

Ids = Callable[[object, int], list[int]]
PAGE_SIZES = [1, 16]


def modes(e: Any) -> list[str]:
    return [mode.value for mode, _, _ in e.batches]


def test_one_iteration_receives_prefills_and_yields_the_first_token(engine: Any) -> None:
    e = engine()
    e.post("r", 20, max_new_tokens=3)
    assert e.scheduler.requests == {}
    e.step()
    assert e.where("r") == "running"
    assert e.req("r").output_ids == expected_output(e.prompts["r"], 1)
    assert e.scheduler.last_batch.forward_mode is ForwardMode.EXTEND
    e.step()
    assert (e.where("r"), e.scheduler.last_batch.forward_mode) == ("running", ForwardMode.DECODE)
    e.step()
    assert e.where("r") == "done"
    e.expect_output("r")
    assert [req.rid for req in e.scheduler.last_batch.reqs] == ["r"]
    e.step()
    assert e.scheduler.last_batch is None
    assert (e.receives, e.scheduler.forward_ct) == (4, 3)
    assert e.scheduler.is_fully_idle()


def test_max_new_tokens_of_one_ends_with_the_prefill(engine: Any) -> None:
    e = engine()
    e.post("r", 20, max_new_tokens=1)
    e.step()
    e.expect_output("r")
    assert e.scheduler.running_batch.reqs == []


def test_prefill_goes_before_decode(engine: Any) -> None:
    e = engine()
    e.post("a", 20, max_new_tokens=6)
    e.step(2)
    e.post("b", 20, max_new_tokens=6)
    e.step(2)
    assert modes(e) == ["extend", "decode", "extend", "decode"]
    assert list(e.batches[-1][1]) == ["a", "b"]
    e.run()
    e.expect_output("a", "b")


def test_the_observer_sees_a_batch_before_it_runs(engine: Any) -> None:
    e = engine()
    seen: list[int] = []
    inner = e.on_run_batch
    e.on_run_batch = lambda batch: (seen.append(len(batch.reqs[0].output_ids)), inner(batch))
    e.post("r", 5, max_new_tokens=3)
    e.run()
    assert seen == [0, 1, 2]


# --- the end of a request


def test_stop_tokens_and_the_end_of_sequence(engine: Any) -> None:
    e = engine()
    e.post("plain", 20, max_new_tokens=12)
    e.run()
    output = e.finished("plain").output_ids
    e.post(
        "stops",
        e.prompts["plain"],
        max_new_tokens=12,
        ignore_eos=False,
        stop_token_ids=(output[5],),
    )
    e.post("ignores", e.prompts["plain"], max_new_tokens=12, stop_token_ids=(output[5],))
    e.run()
    stopped = e.finished("stops")
    assert stopped.output_ids == output[:6]
    assert stopped.finished_reason.kind is FinishKind.STOP
    assert stopped.finished_reason.matched_token == output[5]
    e.expect_output("ignores")


def test_length_wins_over_a_stop_at_the_same_token(engine: Any) -> None:
    e = engine()
    e.post("plain", 20, max_new_tokens=6)
    e.run()
    last = e.finished("plain").output_ids[-1]
    e.post("both", e.prompts["plain"], max_new_tokens=6, ignore_eos=False, stop_token_ids=(last,))
    e.run()
    assert e.kind("both") is FinishKind.LENGTH


def test_a_stop_can_be_the_first_token(engine: Any, ids: Ids) -> None:
    e = engine()
    prompt = ids("p", 10)
    e.post("r", prompt, ignore_eos=False, stop_token_ids=tuple(expected_output(prompt, 1)))
    e.run()
    assert e.kind("r") is FinishKind.STOP


# --- chunked prefill


@pytest.mark.parametrize("page_size", PAGE_SIZES)
@pytest.mark.parametrize("offset", [-17, -16, -1, 0, 1, 15, 16, 17])
@pytest.mark.parametrize("chunks", [1, 3])
def test_chunk_boundaries(engine: Any, page_size: int, offset: int, chunks: int) -> None:
    e = engine(chunked_prefill_size=64, page_size=page_size)
    length = 64 * chunks + offset
    e.post("r", length, max_new_tokens=5)
    e.run()
    e.expect_output("r")
    whole, rest = divmod(length, 64)
    assert e.computed("r") == [64] * whole + ([rest] if rest else [])
    chunked = [rid for mode, _, rid in e.batches if mode.is_extend()]
    assert chunked == ["r"] * (len(chunked) - 1) + [None]


def test_a_request_is_mid_chunk_at_the_boundary(engine: Any) -> None:
    e = engine(chunked_prefill_size=64)
    in_flight: list[int] = []
    inner = e.on_run_batch
    e.on_run_batch = lambda batch: (in_flight.append(batch.reqs[0].is_chunked), inner(batch))
    e.post("r", 150)
    e.step()
    req = e.req("r")
    assert (in_flight, req.is_chunked) == ([1], 0)
    assert (e.where("r"), req.kv_committed_len, req.output_ids) == ("chunked", 64, [])
    assert list(e.scheduler.tree_cache.nodes()) == []
    e.step()
    assert (req.kv_committed_len, req.cache_protected_len) == (128, 64)
    assert req.last_node.lock_ref == 1
    assert req.last_node.hit_count == 0
    e.step()
    assert (e.where("r"), len(req.output_ids)) == ("running", 1)
    assert in_flight == [1, 1, 0]


def test_the_rest_of_a_chunk_takes_in_others(engine: Any) -> None:
    e = engine(chunked_prefill_size=64)
    e.post("long", 100)
    e.post("short", 20)
    e.post("next", 100)
    e.step(2)
    assert [lens for _, lens, _ in e.batches] == [
        {"long": 64},
        {"long": 36, "short": 20, "next": 8},
    ]
    assert e.scheduler.chunked_req.rid == "next"
    e.run()
    e.expect_output("long", "short", "next")


def test_without_chunks_a_prompt_is_one_batch(engine: Any) -> None:
    e = engine(chunked_prefill_size=-1)
    e.post("r", 3000, max_new_tokens=2)
    e.run()
    assert e.computed("r") == [3000]
    e.expect_output("r")


def test_a_chunk_waits_for_memory(engine: Any) -> None:
    e = engine(chunked_prefill_size=64, max_total_tokens=256)
    e.post("decoder", 60, max_new_tokens=20)
    e.step()
    e.post("long", 150, max_new_tokens=4)
    e.step()
    assert e.where("long") == "chunked"
    e.call(lambda scheduler: scheduler.holds.hold_pages(100))
    e.post("short", 3, max_new_tokens=2)
    outputs = len(e.req("decoder").output_ids)
    e.step(3)
    assert e.computed("long") == [64]
    assert (e.where("long"), e.where("short")) == ("chunked", "waiting")
    assert len(e.req("decoder").output_ids) == outputs + 3
    e.run()
    assert e.computed("long") == [64, 64, 22]
    e.expect_output("decoder", "long", "short")


# --- shared prefixes


@pytest.mark.parametrize("page_size", PAGE_SIZES)
def test_a_shared_prefix_is_computed_once(engine: Any, ids: Ids, page_size: int) -> None:
    e = engine(page_size=page_size)
    shared = ids("shared", 48)
    e.post("a", [*shared, *ids("a", 20)])
    e.step()
    e.post("b", [*shared, *ids("b", 30)])
    e.step()
    assert (e.computed("a"), e.computed("b")) == ([68], [30])
    b = e.req("b")
    rows = e.scheduler.req_to_token_pool.req_to_token
    assert rows[e.req("a").req_pool_idx, :48].tolist() == rows[b.req_pool_idx, :48].tolist()
    assert b.last_node.parent.lock_ref == 2
    e.run()
    e.expect_output("a", "b")


@pytest.mark.parametrize("page_size", PAGE_SIZES)
def test_twins_in_one_batch_end_up_with_one_copy(engine: Any, ids: Ids, page_size: int) -> None:
    e = engine(page_size=page_size)
    prompt = ids("twin", 50)
    e.post("a", prompt)
    e.post("b", prompt)
    e.step()
    assert (e.computed("a"), e.computed("b")) == ([50], [50])
    assert e.req("b").cache_protected_len == 50 // page_size * page_size
    assert e.scheduler.tree_cache.protected_size() == 50 // page_size * page_size
    e.run()
    e.expect_output("a", "b")


def test_a_finished_request_leaves_prompt_and_output(engine: Any) -> None:
    e = engine()
    e.post("r", 30, max_new_tokens=10)
    e.run()
    everything = [*e.prompts["r"], *e.finished("r").output_ids]
    assert len(e.scheduler.tree_cache.match_prefix(everything).indices) == 39
    e.post("again", e.prompts["r"], max_new_tokens=10)
    e.post("longer", [*everything, 5, 6], max_new_tokens=10)
    e.run()
    assert (e.computed("again"), e.computed("longer")) == ([1], [3])
    e.expect_output("again", "longer")
    top = next(iter(e.scheduler.tree_cache.nodes()))
    assert (top.hit_count > 1, top.lock_ref) == (True, 0)


@pytest.mark.parametrize("page_size", PAGE_SIZES)
def test_without_the_tree_everything_is_computed(engine: Any, page_size: int) -> None:
    e = engine(disable_radix_cache=True, chunked_prefill_size=64, page_size=page_size)
    e.post("a", 100)
    e.run()
    e.post("b", e.prompts["a"])
    e.run()
    assert e.computed("b") == [64, 36]
    e.expect_output("a", "b")
    assert e.scheduler.token_to_kv_pool_allocator.available_size() == 8192


# --- pressure


@pytest.mark.parametrize("page_size", PAGE_SIZES)
@pytest.mark.parametrize("disable", [False, True])
def test_retraction_under_pressure(engine: Any, page_size: int, disable: bool) -> None:
    e = engine(
        max_total_tokens=512,
        page_size=page_size,
        disable_radix_cache=disable,
        schedule_conservativeness=0.0,
        chunked_prefill_size=-1,
    )
    rids = [f"r{i}" for i in range(6)]
    for rid in rids:
        e.post(rid, 60, max_new_tokens=90)
    e.run()
    e.expect_output(*rids)
    assert sum(req.retraction_count for req in e.finishes) > 0
    assert all(len(e.computed(req.rid)) == 1 + req.retraction_count for req in e.finishes)


def test_a_retracted_request_starts_over_behind_the_queue(engine: Any) -> None:
    e = engine(max_total_tokens=128, max_running_requests=2, schedule_conservativeness=0.0)
    e.post("a", 30, max_new_tokens=60)
    e.post("b", 31, max_new_tokens=60)
    e.post("waits", 10, max_new_tokens=30)
    e.step()
    e.step_until(lambda: e.req("b").retraction_count == 1)
    assert [req.rid for req in e.scheduler.waiting_queue] == ["waits", "b"]
    produced = list(e.req("b").output_ids)
    assert produced
    e.run()
    assert e.finished("b").output_ids[: len(produced)] == produced
    e.expect_output("a", "b", "waits")


def test_admission_is_more_careful_after_a_retraction(engine: Any) -> None:
    e = engine(max_total_tokens=128, schedule_conservativeness=0.0)
    e.post("stays", 30, max_new_tokens=90)
    e.step()
    e.post("ends", 20, max_new_tokens=30)
    e.step(3)
    e.post("victim", 21, max_new_tokens=45)
    e.run()
    e.expect_output("stays", "ends", "victim")
    assert e.finished("victim").retraction_count == 1


def test_admission_grows_bolder_while_decoding_goes_well(engine: Any) -> None:
    e = engine(max_total_tokens=1000)
    e.post("old", 50, max_new_tokens=900)
    e.step()
    e.post("new", 310, max_new_tokens=20)
    e.step()
    assert e.where("new") == "waiting"
    e.step_until(lambda: e.where("new") == "running")
    assert len(e.req("old").output_ids) < 400
    e.run()
    e.expect_output("old", "new")


def test_the_tree_gives_way_before_a_request_does(engine: Any) -> None:
    e = engine(max_total_tokens=256)
    for i in range(3):
        e.post(f"old{i}", 60, max_new_tokens=2)
        e.run()
    assert e.scheduler.tree_cache.evictable_size() > 180
    e.post("new", 100, max_new_tokens=150)
    e.run()
    assert e.finished("new").retraction_count == 0
    e.expect_output("new")


def test_the_last_request_is_aborted_when_it_cannot_go_on(engine: Any) -> None:
    e = engine(max_total_tokens=256)
    e.post("r", 100, max_new_tokens=50)
    e.step(2)
    allocator = e.scheduler.token_to_kv_pool_allocator
    e.call(lambda scheduler: scheduler.holds.hold_pages(allocator.available_size()))
    e.step(2)
    reason = e.finished("r").finished_reason
    assert reason.kind is FinishKind.ABORT
    assert reason.message.startswith("Out of KV memory")
    assert "155 held" in reason.message
    assert e.finished("r").output_ids == expected_output(e.prompts["r"], 2)


def test_a_parked_chunk_gives_way_to_the_last_decoder(engine: Any) -> None:
    e = engine(chunked_prefill_size=64, max_total_tokens=256)
    e.post("decoder", 60, max_new_tokens=60)
    e.step()
    e.post("long", 120, max_new_tokens=4)
    e.step()
    held: list[Any] = []
    e.call(lambda scheduler: held.append(scheduler.holds.hold_pages(132)))
    e.step(2)
    assert (e.where("decoder"), e.where("long")) == ("running", "waiting")
    assert e.req("long").retraction_count == 1
    e.step(20)
    e.call(lambda scheduler: scheduler.holds.release_pages(held[0]))
    e.run()
    e.expect_output("decoder", "long")


def test_a_request_that_cannot_be_admitted_waits(engine: Any) -> None:
    e = engine(max_total_tokens=128)
    held: list[Any] = []
    e.call(lambda scheduler: held.append(scheduler.holds.hold_pages(100)))
    e.post("r", 30)
    e.step(50)
    assert e.where("r") == "waiting"
    e.call(lambda scheduler: scheduler.holds.release_pages(held[0]))
    e.run()
    e.expect_output("r")


def test_rows_limit_who_runs(engine: Any) -> None:
    e = engine(max_running_requests=3)
    rows: list[Any] = []
    e.call(lambda scheduler: rows.append(scheduler.holds.hold_rows(1)))
    for rid in "abcd":
        e.post(rid, 10, max_new_tokens=5)
    e.step()
    assert [e.where(rid) for rid in "abcd"] == ["running", "running", "waiting", "waiting"]
    e.call(lambda scheduler: scheduler.holds.release_rows(rows[0]))
    e.step()
    assert [e.where(rid) for rid in "abcd"] == ["running", "running", "running", "waiting"]
    e.run()
    e.expect_output(*"abcd")


@pytest.mark.parametrize("page_size", PAGE_SIZES)
def test_the_largest_request_of_all_fits(engine: Any, page_size: int) -> None:
    e = engine(max_total_tokens=320, page_size=page_size, chunked_prefill_size=64)
    e.post("before", 200, max_new_tokens=3)
    e.run()
    for length in (1, 160, 319, 320):
        e.post(f"r{length}", length, max_new_tokens=10_000)
        e.run()
        assert e.finished(f"r{length}").max_new_tokens == 320 - length + 1
        e.expect_output(f"r{length}")


def test_max_new_tokens_is_clipped_to_the_context(engine: Any) -> None:
    e = engine(context_length=64)
    e.post("r", 63, max_new_tokens=100)
    e.post("s", 40, max_new_tokens=100)
    e.run()
    assert [e.finished(rid).max_new_tokens for rid in "rs"] == [1, 24]
    e.expect_output("r", "s")


# --- order


def test_priority_decides_who_is_admitted_first(engine: Any) -> None:
    for enabled, order in (
        (True, ["high", "mid", "low", "none"]),
        (False, ["none", "low", "mid", "high"]),
    ):
        e = engine(max_running_requests=1, enable_priority_scheduling=enabled)
        for rid, priority in (("none", None), ("low", 1), ("mid", 5), ("high", 9)):
            e.post(rid, 10, max_new_tokens=2, priority=priority)
        e.run()
        assert [req.rid for req in e.finishes] == order


def test_longest_prefix_first(engine: Any, ids: Ids) -> None:
    e = engine(max_running_requests=1, schedule_policy="lpm")
    shared = ids("s", 40)
    e.post("warm", shared, max_new_tokens=1)
    e.run()
    e.post("cold", 50, max_new_tokens=2)
    e.post("hot", [*shared, 7], max_new_tokens=2)
    e.run()
    assert [req.rid for req in e.finishes] == ["warm", "hot", "cold"]


# --- what is refused


def spec(prompt: Any, *, rid: str = "r", max_new_tokens: int = 8) -> GenerateReq:
    return GenerateReq(
        rid=rid, input_ids=prompt, sampling_params=SamplingParams(max_new_tokens=max_new_tokens)
    )


@pytest.mark.parametrize(
    ("request_spec", "text"),
    [
        (spec([]), "prompt is empty"),
        (spec([5] * 64), "longer than the model's context length"),
        (spec([5] * 49), "longer than the KV pool"),
        (spec([5, -1]), "token id -1"),
        (spec([5, 32_000]), "token id 32000"),
        (spec([5, 1.5]), "integer token ids"),
        (spec([True]), "integer token ids"),
        (spec([5], max_new_tokens=0), "max_new_tokens must be at least 1"),
        (spec([5], rid=""), "request id is empty"),
    ],
)
def test_refusals(engine: Any, request_spec: GenerateReq, text: str) -> None:
    e = engine(context_length=64, max_total_tokens=48)
    assert text in e.scheduler.validate(request_spec)
    # Past the front, it ends with the same text and leaves the engine sound.
    e.scheduler.inbox.append(request_spec)
    e.step()
    (req,) = e.finishes
    assert req.finished_reason.kind is FinishKind.ABORT
    assert text in req.finished_reason.message
    assert e.scheduler.is_fully_idle()


def test_a_live_request_id_is_taken(engine: Any) -> None:
    e = engine()
    twin = e.post("r", 10)
    assert "in use" in e.scheduler.validate(twin)
    e.step()
    assert "in use" in e.scheduler.validate(twin)
    e.scheduler.inbox.append(twin)
    e.step()
    (refused,) = e.finishes
    assert "in use" in refused.finished_reason.message
    assert e.where("r") == "done"
    e.step_until(lambda: not e.scheduler.requests)
    _refused, second = e.finishes
    assert second.output_ids == expected_output(e.prompts["r"], 8)
    assert e.scheduler.validate(twin) is None


# --- determinism


def test_the_same_requests_make_the_same_batches(engine: Any) -> None:
    def play() -> tuple[list[Any], list[Any], list[int]]:
        e = engine(max_total_tokens=512, chunked_prefill_size=64, page_size=4)
        for i in range(8):
            e.post(f"r{i}", 30 + 11 * i, max_new_tokens=20 + 3 * i)
            e.step()
        e.run()
        free = e.scheduler.token_to_kv_pool_allocator.free_pages.tolist()
        return e.batches, [req.output_ids for req in e.finishes], free

    assert play() == play()


def test_the_same_requests_make_the_same_batches_on_a_flushed_engine(engine: Any) -> None:
    e = engine(max_total_tokens=256, chunked_prefill_size=-1, schedule_conservativeness=0.0)

    def play(turn: int) -> list[Any]:
        before = len(e.batches)
        for i in range(4):
            e.post(f"{turn}-{i}", [i + 5] * 40, max_new_tokens=60)
        e.run()
        assert e.flush()
        return [(mode, *lens.values()) for mode, lens, _ in e.batches[before:]]

    first = play(1)
    assert sum(req.retraction_count for req in e.finishes) > 0
    assert play(2) == first


def test_after_a_flush_the_past_does_not_show(engine: Any) -> None:
    def slots_of_next(e: Any) -> list[int]:
        e.post("next", 40, max_new_tokens=3)
        e.step(2)
        row = e.scheduler.req_to_token_pool.req_to_token[e.req("next").req_pool_idx]
        return [e.req("next").req_pool_idx, *row[:41].tolist()]

    used = engine()
    held = [used.scheduler.holds.hold_pages(3) for _ in range(4)]
    for i in range(5):
        used.post(f"r{i}", 20 + i, max_new_tokens=9 - i)
    used.run()
    for i in (1, 3, 0, 2):
        used.scheduler.holds.release_pages(held[i])
    assert used.flush()
    assert slots_of_next(used) == slots_of_next(engine())
