"""The two ends of a pair of servers: what the prefill scheduler does when it is told, and reports."""

from __future__ import annotations

import os
import threading

import pytest
from scripted_core.errors import CapabilityMissing, ExhaustError, ReplyTimeout
from scripted_core.ops import Exhaust, Flush, Pause, ReleaseHeld
from scripted_core.ports import port_of
from scripted_core.requests import ClientStream, ReqSpec
from scripted_core.testing import FakeEngine
from scripted_core.views import PauseMode, PdStage
from scripted_core.wire.address import create_address
from scripted_hook import ScriptedSchedulerHook
from scripted_hook.pair import FollowsPair, LeadsPair, Partner, UncontrolledTransfer, stage_of
from scripted_hook.pair.rank import PairFollower, PairLead
from scripted_registry import ExhausterSpec, hookimpl
from scripted_registry.ci import register_cpu_ci

register_cpu_ci(est_time=1, stage="unit", runner_config="cpu")


class PrefillEngine(FakeEngine):
    """A whole engine that plays the prefill server."""

    def __init__(self):
        super().__init__()
        self.is_driver = False
        self.expected = []
        self.stop = threading.Event()
        self.leak = False

    def expect(self, rid):
        self.expected.append(rid)

    def await_arrival(self, rid, *, cancelled, wake_fd):
        if rid in self.expected and rid.startswith("there"):
            return True
        while not cancelled():
            pass
        return False

    def pair_stages(self):
        return {view.rid: PdStage.PREFILLING for view in self.requests()}

    def audit(self):
        if self.leak:
            self.kv_pool.allocate(2)
        return super().audit()

    def run(self):
        while not self.stop.is_set():
            self.iterate()


class DownTo:
    """Takes a pool down to a number of pages."""

    def __init__(self, scheduler):
        self.pools = port_of(scheduler).kv_pools
        self.held = []

    def exhaust(self, *, leave_pages, pool):
        found = self.pools[pool]
        if leave_pages > found.available:
            raise ExhaustError(f"exhaust_kv: leave_pages={leave_pages} is too many")
        self.held.append((found, found.hold(found.available - leave_pages)))

    def release(self):
        for pool, hold in self.held:
            pool.release(hold)


class Exhausters:
    SCRIPTED_API = 1

    @hookimpl
    def scripted_register_exhausters(self):
        return [ExhausterSpec(name="kv", summary="holds pages", factory=DownTo)]


@pytest.fixture
def ends(plugins):
    """The partner as the decode scheduler has it, and the engine that it leads."""
    plugins.register(Exhausters(), name="exhausters")
    address = create_address()
    partner = Partner(address)
    engine = PrefillEngine()
    rank = PairFollower(adapter=engine, address=address)
    engine.connect(
        ScriptedSchedulerHook(
            scheduler=engine.scheduler, tokenizer_recv_proxy=None, adapter=engine, rank=rank
        )
    )
    running = threading.Thread(target=engine.run, daemon=True)
    running.start()
    yield partner, engine
    engine.stop.set()
    partner.release()
    running.join(30)
    assert not running.is_alive()
    partner.close()
    rank.close()
    engine.close()
    address.remove()


def test_the_shapes_by_which_the_ends_are_found():
    assert isinstance(PrefillEngine(), FollowsPair)
    assert not isinstance(FakeEngine(), FollowsPair)
    assert not isinstance(FakeEngine(), LeadsPair)


def test_a_held_engine_iterates_when_it_is_told_to(ends):
    partner, engine = ends
    partner.hold()
    assert partner.pools["full@prefill"].available == 64
    engine.submit(ReqSpec(rid="a", input_ids=tuple(range(1, 33)), max_new_tokens=1), ClientStream())
    batches = [partner.iterate(check_invariants=True) for _ in range(4)]
    assert [[one.rids for one in found] for found in batches] == [[("a",)], [("a",)], [], []]
    assert partner.view.is_fully_idle
    assert partner.take_violations(step=4) == []


def test_a_violation_there_is_told_with_the_step_here(ends):
    partner, engine = ends
    partner.hold()
    engine.leak = True
    partner.iterate(check_invariants=True)
    (violation,) = partner.take_violations(step=7)
    assert violation.step == 7
    assert violation.code == "page-orphaned"
    assert violation.message.startswith(f"in the prefill engine (pid {os.getpid()}): pool 'full'")
    assert partner.take_violations(step=8) == []
    lead = PairLead(adapter=FakeEngine(), partner=partner)
    lead.before_iteration(check_invariants=True)
    assert [one.step for one in lead.after_iteration(9, compare=True)] == [9]


def test_operations_are_applied_there_and_their_receipts_settled(ends):
    partner, _ = ends
    partner.hold()
    paused = partner.post(Pause(mode=PauseMode.IN_PLACE))
    exhausted = partner.post(Exhaust("kv", {"leave_pages": 4, "pool": "full@prefill"}))
    assert paused.ok is None
    partner.iterate(check_invariants=True)
    assert partner.take_failure() is None
    assert (paused.ok, exhausted.ok) == (True, True)
    assert partner.view.is_paused
    assert partner.side().is_paused
    assert (partner.pools["full@prefill"].held, partner.pools["full@prefill"].available) == (60, 4)
    partner.post(ReleaseHeld())
    partner.post(Exhaust("kv", {"leave_pages": 1000, "pool": "full@prefill"}))
    partner.iterate(check_invariants=True)
    failure = partner.take_failure()
    assert isinstance(failure, ExhaustError)
    assert "in the prefill engine: exhaust_kv: leave_pages=1000" in str(failure)
    with pytest.raises(CapabilityMissing, match=r"t.prefill.exhaust_kv"):
        partner.pools["full@prefill"].hold(1)


def test_what_a_script_left_there_is_undone_when_it_is_over(ends):
    partner, _ = ends
    partner.hold()
    partner.post(Pause(mode=PauseMode.IN_PLACE))
    partner.post(Exhaust("kv", {"leave_pages": 4, "pool": "full@prefill"}))
    partner.iterate(check_invariants=True)
    partner.release()
    partner.hold()
    partner.iterate(check_invariants=True)
    assert not partner.view.is_paused
    assert partner.pools["full@prefill"].held == 0


def test_a_refusal_there_is_the_refusal_of_the_operation_beside_it(ends):
    partner, engine = ends
    partner.hold()
    engine.submit(ReqSpec(rid="a", input_ids=(1, 2, 3), max_new_tokens=9), ClientStream())
    own = partner.post(Flush())
    beside = partner.post(Flush(), beside=own)
    partner.iterate(check_invariants=True)
    assert beside is own
    assert own.ok is False


def test_arrivals_refusals_and_a_request_that_never_comes(ends):
    partner, engine = ends
    partner.hold()
    wake = os.eventfd(0)
    try:
        partner.expect("there-1")
        assert partner.await_arrival("there-1", ended=lambda: False, wake_fd=wake, timeout_s=30)
        assert engine.expected == ["there-1"]
        partner.expect("lost")
        assert not partner.await_arrival("lost", ended=lambda: True, wake_fd=wake, timeout_s=30)
        with pytest.raises(ReplyTimeout, match="'lost' did not arrive in the prefill engine"):
            partner.await_arrival("lost", ended=lambda: False, wake_fd=wake, timeout_s=0.05)
    finally:
        os.close(wake)
    partner.iterate(check_invariants=True)


def test_where_a_request_is_between_two_engines():
    cases = {
        (None, None): PdStage.GONE,
        (None, PdStage.PREFILLING): PdStage.TRANSFERRING,
        (PdStage.QUEUED, None): PdStage.QUEUED,
        (PdStage.QUEUED, PdStage.PREFILLING): PdStage.PREFILLING,
        (PdStage.TRANSFERRED, PdStage.TRANSFERRING): PdStage.TRANSFERRED,
        (PdStage.DECODING, None): PdStage.DECODING,
    }
    assert {key: stage_of(*key) for key in cases} == cases
    transfer = UncontrolledTransfer(lambda rid: PdStage.QUEUED)
    assert (transfer.stage("a"), transfer.pending()) == (PdStage.QUEUED, ())
