"""Two ranks that take up the same messages: what the driver sees of the other, and objects to."""

from __future__ import annotations

from collections import deque

import pytest
from scripted_core.errors import ConfigError, LeakDetected
from scripted_core.ranks import RankReport, RankView
from scripted_core.requests import ClientStream
from scripted_core.testing import FakeEngine
from scripted_core.views import QueueView
from scripted_core.wire.address import create_address
from scripted_core.wire.messages import decode, encode
from scripted_hook import ScriptedSchedulerHook
from scripted_hook.rank_monitor import DrivingRank, SocketReceiver
from scripted_hook.rank_reporter import FollowingRank, SocketReports
from scripted_hook.ranks import RankedAdapter, RankEvents, ScriptBegins
from scripted_registry import ExhausterSpec, Violation, hookimpl
from scripted_registry.ci import register_cpu_ci

register_cpu_ci(est_time=1, stage="unit", runner_config="cpu")


class Follower(FakeEngine):
    """Takes up what the leader has taken up."""

    def __init__(self):
        super().__init__()
        self.rank, self.other_ranks, self.is_driver = "tp1", {}, False
        self.independent_ranks = frozenset()
        self.notices = []

    def own_queues(self):
        return self.queues()

    def tell_ranks(self, notice):
        raise AssertionError("only the driver tells")

    def iterate(self):
        self.hook.step()
        for notice in self.notices:
            self.hook.apply_rank_notice(notice)
        self.notices.clear()
        self._receive()
        if not self.is_paused:
            self.scheduler.run_batch()


class Leader(FakeEngine):
    """Everything that is posted to it is posted to the follower as well."""

    def own_queues(self):
        return self.queues()

    def __init__(self, follower, *, lag=0, independent=()):
        super().__init__()
        self.independent_ranks = frozenset(independent)
        self.follower = follower
        self.rank, self.other_ranks = "tp0", {"tp1": lag}
        self.deaf = False

    def tell_ranks(self, notice):
        self.follower.notices.append(notice)

    def submit(self, spec, client):
        if not self.deaf:
            self.follower.submit(spec, ClientStream())
        return super().submit(spec, client)

    def control(self, op):
        if not self.deaf:
            self.follower.control(op)
        return super().control(op)


class Pair:
    """A leader and its follower, which iterates whenever the leader waits for it."""

    def __init__(self, **leader):
        self.follower = Follower()
        self.leader = Leader(self.follower, **leader)
        self.sent = deque()
        driving = DrivingRank(adapter=self.leader, ranks=self.leader, receiver=self)
        following = FollowingRank(adapter=self.follower, rank="tp1", sender=self)
        for engine, rank in ((self.leader, driving), (self.follower, following)):
            engine.connect(
                ScriptedSchedulerHook(
                    scheduler=engine.scheduler, tokenizer_recv_proxy=None, adapter=engine, rank=rank
                )
            )

    def send(self, report):
        self.sent.append(decode(encode(report, token="x"), token="x"))  # it has to travel

    def receive(self):
        while not self.sent:
            self.follower.iterate()
        return self.sent.popleft()

    def run(self, script, **job):
        self.leader.hook.start_job(name="script", function=script, **job)
        for _ in range(500):
            if self.leader.hook.outcome is not None:
                return self.leader.hook.outcome
            self.leader.iterate()
        raise AssertionError("the script did not end")


@pytest.fixture
def pair():
    made = Pair()
    yield made
    made.leader.close()
    made.follower.close()


def leak_of(outcome):
    assert isinstance(outcome.error, LeakDetected), outcome.traceback_text
    return str(outcome.error)


def test_the_protocols_tell_such_an_adapter_from_others(pair):
    assert isinstance(pair.leader, RankedAdapter)
    assert not isinstance(FakeEngine(), RankedAdapter)
    assert isinstance(pair.leader.hook, RankEvents)


def test_one_rank_is_seen_as_it_is(make_engine, run_script):
    seen = []

    def script(t):
        yield
        seen.extend(t.ranks)
        assert t.ranks[0].stats == t.engine_stats()

    assert run_script(make_engine(), script).error is None
    (only,) = seen
    assert (only.rank, only.step, only.is_driver) == ("", 1, True)


def test_every_rank_is_seen_after_the_same_iteration(pair):
    def script(t):
        assert [(view.rank, view.step) for view in t.ranks] == [("tp0", 0), ("tp1", 0)]
        r = t.start_req(prompt_len=40, max_new_tokens=2)
        while not r.finished:
            yield
            mine, theirs = t.ranks
            assert (mine.step, theirs.step) == (t.step_index, t.step_index)
            assert mine.stats == theirs.stats == t.engine_stats()
            assert mine.queues == theirs.queues
        assert theirs.stats["kv_pool_free"] < theirs.stats["kv_pool_total"]

    outcome = pair.run(script)
    assert outcome.error is None, outcome.traceback_text
    assert "all of it on every rank, and the ranks alike" in outcome.checks.invariants


def test_a_later_stage_is_seen_as_late_as_it_is_and_to_the_end():
    pair = Pair(lag=2)
    steps = []

    def script(t):
        for _ in range(3):
            yield
            steps.append([view.step for view in t.ranks])

    outcome = pair.run(script)
    assert outcome.error is None
    assert outcome.steps == 3
    assert steps == [[1, 0], [2, 0], [3, 1]]
    # The third ends with the fourth call of step(); two more, until the last stage has ended it too.
    assert pair.leader.iterations == 4 + 2


def test_a_page_lost_on_another_rank_fails_the_script_and_names_it(pair):
    def script(t):
        yield
        pair.follower.kv_pool.allocate(1)
        yield
        raise AssertionError("not reached")

    text = leak_of(pair.run(script))
    assert "[page-orphaned]" in text
    assert "on rank tp1 (pid " in text


def test_a_page_lost_in_the_last_iteration_of_a_later_stage_is_found():
    pair = Pair(lag=1)

    def script(t):
        yield
        yield
        pair.follower.kv_pool.allocate(1)

    assert "on rank tp1" in leak_of(pair.run(script))


def test_a_rank_that_has_not_got_an_operation_is_unlike_the_driver(pair):
    def script(t):
        yield
        pair.leader.deaf = True
        t.start_req(prompt_len=8)
        yield

    text = leak_of(pair.run(script))
    assert "[ranks-differ] step 2: on rank tp1" in text
    assert "kv_pool_free is " in text


def test_a_replica_need_not_be_like_the_driver_and_is_audited_all_the_same():
    pair = Pair(independent=["tp1"])

    def script(t):
        yield
        pair.leader.deaf = True
        t.start_req(prompt_len=8)
        yield
        assert t.ranks[0].stats != t.ranks[1].stats
        pair.follower.kv_pool.allocate(1)
        yield

    text = leak_of(pair.run(script))
    assert "[page-orphaned] step 3: on rank tp1" in text
    assert "ranks-differ" not in text


def test_without_invariants_nothing_is_compared(pair):
    def script(t):
        yield
        pair.follower.kv_pool.hold(1)
        yield
        assert [view.held["full"] for view in t.ranks] == [0, 1]

    assert pair.run(script, check_invariants=False).error is None


class Exhausters:
    SCRIPTED_API = 1

    @hookimpl
    def scripted_register_exhausters(self):
        return [ExhausterSpec(name="picky", summary="fails", factory=Picky)]


class Picky:
    failing = ()

    def __init__(self, scheduler):
        self.scheduler = scheduler

    def exhaust(self):
        if any(self.scheduler is engine.scheduler for engine in self.failing):
            raise ConfigError("not here")

    def release(self):
        pass


@pytest.mark.parametrize("where", ["both", "follower"])
def test_an_operation_that_fails_on_another_rank_alone_is_a_violation(
    pair, plugins, monkeypatch, where
):
    plugins.register(Exhausters(), name="exhausters")
    both = where == "both"
    failing = (pair.leader, pair.follower) if both else (pair.follower,)
    monkeypatch.setattr(Picky, "failing", failing)

    def script(t):
        t.exhaust("picky")
        yield

    error = pair.run(script).error
    if both:
        assert isinstance(error, ConfigError)
    else:
        assert "[rank-operation-failed]" in str(error)
        assert "on rank tp1" in str(error)
        assert "not here" in str(error)


def test_reports_of_an_earlier_script_are_passed_over(pair):
    def script(t):
        yield

    assert pair.run(script).error is None
    stale = pair.sent[0] if pair.sent else _report(run=1, step=1)
    pair.sent.extend([stale] * 3)
    assert pair.run(script).error is None


def test_between_scripts_a_rank_reports_nothing_and_fails_loudly(pair):
    def script(t):
        yield

    assert pair.run(script).error is None
    pair.follower.iterate()
    pair.sent.clear()
    for _ in range(3):
        pair.follower.iterate()
    assert not pair.sent
    following = FollowingRank(adapter=pair.follower, rank="tp1", sender=pair)
    assert not following.keeps_failure(ConfigError("x"), step=1)
    following.notice(ScriptBegins(1, True))
    assert following.keeps_failure(ConfigError("x"), step=1)


def _report(*, run, step, rank="tp1", violations=()):
    view = RankView(
        rank, step, False, {"kv_pool_free": 3}, {"full": 0}, 0, QueueView((), (), ()), False
    )
    return RankReport(pid=7, run=run, view=view, violations=violations)


def test_reports_travel_over_the_sockets_of_a_session():
    address = create_address()
    sender, receiver = SocketReports(address), None
    try:
        violation = Violation(code="c", message="m", subject="s", owners=("a", "b"))
        sent = _report(run=2, step=3, violations=(violation,))
        sender.send(sent)  # before anybody listens
        receiver = SocketReceiver(address)
        assert receiver.receive() == sent
    finally:
        sender.close()
        if receiver is not None:
            receiver.close()
        address.remove()
