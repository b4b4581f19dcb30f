"""Who owns what in the queues that only a prefill or a decode server has."""

from __future__ import annotations

import sys
from types import ModuleType, SimpleNamespace

import pytest
from scripted_core.views import OwnerKind, PdStage, RequestStatus, Side
from scripted_hook.invariants import check_audit
from scripted_registry.ci import register_cpu_ci
from scripted_sglang import _compat
from scripted_sglang.memory import SglangKvPool, SglangPrefixTree, SglangRowPool
from scripted_sglang.state import SchedulerState

register_cpu_ci(est_time=1, stage="unit", runner_config="cpu")
register_cpu_ci(est_time=1, stage="single-sglang", runner_config="cpu")


@pytest.fixture
def make(fakes):
    """A scheduler of one side, and its state."""

    def made(mode, **overrides):
        scheduler = fakes.scheduler(
            disaggregation_mode=SimpleNamespace(value=mode),
            disagg_prefill_bootstrap_queue=SimpleNamespace(queue=[]),
            disagg_prefill_inflight_queue=[],
            disagg_decode_prealloc_queue=SimpleNamespace(
                queue=[], retracted_queue=[], held_rebootstrap_reqs=[]
            ),
            disagg_decode_transfer_queue=SimpleNamespace(queue=[], _deferred_releases=[]),
            **overrides,
        )
        if mode == "decode":
            pool = scheduler.req_to_token_pool
            pool.pre_alloc_size = 3
            pool.req_to_token = fakes.Tensor([[0] * 64] * 8)
            pool.free_slots = list(range(1, 8))
        state = SchedulerState(
            scheduler,
            pools={
                "full": SglangKvPool(
                    name="full",
                    allocator=scheduler.token_to_kv_pool_allocator,
                    page_size=2,
                    evictable_tokens=lambda: 0,
                )
            },
            rows=SglangRowPool(scheduler.req_to_token_pool),
            tree=SglangPrefixTree(scheduler.tree_cache, page_size=2),
        )
        return scheduler, state

    return made


@pytest.fixture
def with_memory(fakes):
    """A request that has a row and the slots of two pages."""

    def made(scheduler, rid, **overrides):
        slots = scheduler.token_to_kv_pool_allocator.alloc(4)
        row = scheduler.req_to_token_pool.free_slots.pop(0)
        scheduler.req_to_token_pool.req_to_token.values[row, :4] = slots.values
        return fakes.request(rid, kv={"req_pool_idx": row, "kv_allocated_len": 4}, **overrides)

    return made


def _receiving(req):
    return SimpleNamespace(req=req, kv_receiver=None)


def _kinds(state):
    return {
        claim.owner: claim.kind
        for claim in state.audit().pools[0].claims
        if claim.kind is not claim.owner and len(claim.pages)
    }


@pytest.mark.parametrize(
    ("mode", "side"), [("null", None), ("prefill", Side.PREFILL), ("decode", Side.DECODE)]
)
def test_the_side_is_that_of_the_server(make, mode, side):
    assert _compat.side_of(make(mode)[0]) is side


def test_a_release_without_such_servers_has_no_side(fakes):
    assert _compat.side_of(fakes.scheduler()) is None


def test_a_prompt_that_is_being_sent_is_in_flight(make, with_memory, fakes):
    scheduler, state = make("prefill")
    scheduler.disagg_prefill_bootstrap_queue.queue.append(fakes.request("new"))
    scheduler.disagg_prefill_inflight_queue.append(with_memory(scheduler, "sent"))
    assert state.pair_stages() == {"new": PdStage.QUEUED, "sent": PdStage.TRANSFERRING}
    assert _kinds(state)["sent"] is OwnerKind.IN_FLIGHT
    assert check_audit(state.audit(), step=1) == []
    assert state.queues().waiting == ("new", "sent")
    assert list(state.live()) == ["new", "sent"]
    assert state.audit().rows.by_request == {"sent": 1}


def test_what_is_set_aside_for_kv_that_comes_is_the_transfers(make, with_memory):
    scheduler, state = make("decode")
    req = with_memory(scheduler, "coming")
    scheduler.disagg_decode_transfer_queue.queue.append(_receiving(req))
    assert _kinds(state)["coming"] is OwnerKind.TRANSFER
    assert check_audit(state.audit(), step=1) == []
    view = state.view(req)
    assert view.status is RequestStatus.WAITING
    assert (view.kv_pages, view.computed_tokens) == (2, 0)


def test_transferred_kv_is_its_requests(make, with_memory):
    scheduler, state = make("decode")
    scheduler.waiting_queue.append(with_memory(scheduler, "there"))
    assert _kinds(state)["there"] is OwnerKind.REQUEST
    assert check_audit(state.audit(), step=1) == []


def test_memory_of_an_aborted_transfer_is_in_flight_until_it_is_let_go(make, with_memory):
    scheduler, state = make("decode")
    req = with_memory(scheduler, "late", is_finished=True)
    scheduler.disagg_decode_transfer_queue._deferred_releases.append((_receiving(req), 0, 0, 0, 1))
    assert _kinds(state)["late"] is OwnerKind.IN_FLIGHT
    assert check_audit(state.audit(), step=1) == []
    assert state.live() == {}
    assert not state.audit().is_idle


@pytest.mark.parametrize("queue", ["retracted_queue", "held_rebootstrap_reqs"])
def test_a_retracted_request_waits_without_memory(make, fakes, queue):
    scheduler, state = make("decode")
    getattr(scheduler.disagg_decode_prealloc_queue, queue).append(fakes.request("back"))
    assert state.pair_stages() == {"back": PdStage.RETRACTED}
    assert not state.audit().is_idle
    assert _compat.waits_to_be_recomputed(scheduler) is (queue == "held_rebootstrap_reqs")


def test_a_token_that_is_put_by_is_output_all_the_same(make, fakes):
    _, state = make("decode")
    req = fakes.request("back", output_ids=[5, 6], pd_rebootstrap_forced_output_id=7)
    assert list(_compat.outputs_of(req)) == [5, 6, 7]
    assert state.view(req).output_len == 3
    req.pd_rebootstrap_forced_output_id = None
    assert list(_compat.outputs_of(req)) == [5, 6]


def test_a_decode_server_has_rows_for_what_is_on_its_way(make):
    scheduler, state = make("decode")
    assert SglangRowPool(scheduler.req_to_token_pool).total == 7
    assert check_audit(state.audit(), step=1) == []


def test_a_row_that_a_transfer_lost_is_seen(make, with_memory):
    scheduler, state = make("decode")
    with_memory(scheduler, "lost")
    assert {one.code for one in check_audit(state.audit(), step=1)} == {
        "page-orphaned",
        "row-orphaned",
    }


@pytest.mark.parametrize(
    ("rid", "abort_all", "left"),
    [("victim", False, ["other"]), ("", True, []), ("nobody", False, ["victim", "other"])],
)
@pytest.mark.parametrize("as_shipped", ["", "1"])
def test_an_abort_finds_what_waits_to_be_recomputed(
    make, fakes, monkeypatch, rid, abort_all, left, as_shipped
):
    monkeypatch.setenv("SCRIPTED_SGLANG_AS_SHIPPED", as_shipped)
    native = ModuleType("sglang.srt.managers.scheduler")
    native._make_abort_req = lambda req: f"abort of {req.rid}"
    for name in ("sglang", "sglang.srt", "sglang.srt.managers"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    monkeypatch.setitem(sys.modules, native.__name__, native)
    sent = []
    scheduler, _ = make("decode", send_abort_output=lambda *output: sent.append(output))
    waiting = [fakes.request("victim"), fakes.request("other")]
    scheduler.disagg_decode_prealloc_queue.held_rebootstrap_reqs.extend(waiting)
    _compat.abort_what_waits_to_be_recomputed(
        scheduler, SimpleNamespace(rid=rid, abort_all=abort_all)
    )
    kept = [req.rid for req in scheduler.disagg_decode_prealloc_queue.held_rebootstrap_reqs]
    if as_shipped:
        assert (kept, sent) == (["victim", "other"], [])
    else:
        assert kept == left
        assert sent == [(f"abort of {req.rid}", req) for req in waiting if req.rid not in left]


@pytest.mark.parametrize(
    ("finished_len", "expected"), [(None, [5, 6, 7]), (3, [5, 6, 7]), (2, [5, 6])]
)
def test_what_an_accepted_draft_put_past_the_end_is_no_output(finished_len, expected):
    req = SimpleNamespace(output_ids=[5, 6, 7], finished_len=finished_len)
    assert list(_compat.outputs_of(req)) == expected
