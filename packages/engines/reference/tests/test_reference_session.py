"""The engine through a session: what a damaged engine does to the scripts after it."""

from __future__ import annotations

import pytest
from scripted_core import EngineDirty, InProcessSession, LeakDetected
from scripted_core.errors import ConfigError, ExhaustError


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
