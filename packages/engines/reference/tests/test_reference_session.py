"""The engine through a session: what a damaged engine does to the scripts after it."""

from __future__ import annotations

import threading

import pytest
from scripted_core import EngineDirty, InProcessSession, LeakDetected, ScriptStalled
from scripted_core.errors import ConfigError, ExhaustError
from scripted_registry.ci import register_cpu_ci

register_cpu_ci(est_time=1, stage="reference", runner_config="cpu")


@pytest.fixture
def session():
    with InProcessSession.start(backend="reference", max_total_tokens=256) as session:
        yield session


def script_that_leaks(t):
    # A request keeps the engine busy: an idle one would find the leak by its own check.
    t.start_req(prompt_len=1, max_new_tokens=8, ignore_eos=True)
    yield
    t.scheduler.token_to_kv_pool_allocator.alloc(3)
    yield
    yield


def script_that_does_nothing(t):
    return
    yield


def test_a_leak_names_the_pages_and_leaves_the_engine_to_nobody(session):
    with pytest.raises(LeakDetected, match=r"page-orphaned.*3 pages have no owner: 2, 3, 4"):
        session.execute_script(script_that_leaks)
    assert "LeakDetected" in session.dirty
    with pytest.raises(EngineDirty, match="damaged"):
        session.execute_script(script_that_does_nothing)


def test_a_failed_exhaust_holds_nothing(session):
    def script(t):
        t.exhaust("rows", leave_rows=10**6)
        with pytest.raises(ExhaustError):
            yield
        assert not t.hook.memory.holds_anything

    session.execute_script(script)


def test_an_exhauster_refuses_parameters_that_it_does_not_have(session):
    def script(t):
        t.exhaust("rows", leave_pages=1)
        with pytest.raises(ConfigError, match="leave_pages"):
            yield

    session.execute_script(script)


def test_a_failed_expectation_leaves_the_engine_usable(session):
    def script(t):
        yield
        raise AssertionError("expected")

    with pytest.raises(AssertionError, match="expected"):
        session.execute_script(script)
    assert session.dirty is None
    session.execute_script(script_that_does_nothing)


@pytest.mark.parametrize("timeout_s", [0, -1, float("nan")])
def test_a_time_limit_that_is_none_is_refused_and_nothing_runs(session, timeout_s):
    with pytest.raises(ConfigError, match="timeout_s="):
        session.execute_script(script_that_does_nothing, timeout_s=timeout_s)
    session.execute_script(script_that_does_nothing, timeout_s=5)


def test_a_script_inside_a_script_is_refused(session):
    def outer(t):
        yield
        with pytest.raises(ConfigError, match="already running"):
            session.execute_script(script_that_does_nothing)
        yield
        raise AssertionError("the outer script went on")

    with pytest.raises(AssertionError, match="went on"):
        session.execute_script(outer)


def test_a_kept_t_acts_no_more_once_its_script_has_ended(session):
    kept = []

    def first(t):
        kept.append((t, t.start_req(prompt_len=4, max_new_tokens=1)))
        yield
        yield

    def second(t):
        for act in (
            lambda old: old.exhaust_kv(leave_pages=0),
            lambda old: old.start_req(prompt_len=1),
            lambda old: old.pause_generation(mode="retract"),
            lambda old: old.abort_all(),
        ):
            with pytest.raises(ConfigError, match="has ended"):
                act(kept[0][0])
        yield
        assert t.engine_stats()["kv_pool_free"] == t.engine_stats()["kv_pool_total"]

    session.execute_script(first)
    assert kept[0][1].finished  # questions are still answered
    session.execute_script(second)


def test_a_live_rid_that_an_automatic_one_begins_with_is_refused(session):
    def script(t):
        t.start_req(prompt_len=4, rid="s")
        with pytest.raises(ConfigError, match="prefixes of each other"):
            t.start_req(prompt_len=4)
        yield

    session.execute_script(script)


@pytest.mark.parametrize(
    "wrong",
    [
        {"ignore_eos": "x"},
        {"temperature": True},
        {"stop_token_ids": "ab"},
        {"stop_token_ids": [1.5]},
        {"max_new_tokens": 2**200},
        {"seed": float("nan")},
        {"rid": "a\nb"},
        {"rid": "\ud800"},
    ],
)
def test_wrong_arguments_are_named_before_anything_is_posted(session, wrong):
    def script(t):
        with pytest.raises(ConfigError, match=next(iter(wrong))):
            t.start_req(prompt_len=4, **wrong)
        yield
        assert t.is_fully_idle

    session.execute_script(script)


def test_a_swallowed_stall_is_still_a_stall():
    def script(t):
        yield
        try:
            threading.Event().wait(20)
        except BaseException:
            return

    with InProcessSession.start(backend="reference", stall_timeout_s=0.2) as session:
        with pytest.raises(ScriptStalled):
            session.execute_script(script)
        assert session.dirty


@pytest.mark.parametrize("limit_s", [0, -1, float("inf"), float("nan"), True])
def test_a_stall_limit_that_is_none_is_refused(limit_s):
    with pytest.raises(ConfigError, match="stall_timeout_s"):
        InProcessSession.start(backend="reference", stall_timeout_s=limit_s)
