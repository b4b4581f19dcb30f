"""What the test sees when a script ends otherwise than well, and that the next one runs."""

from __future__ import annotations

import subprocess
import sys
import unittest

import pytest
from scripted_backend_single import single_device_kwargs
from scripted_chunked import advance_to_decode_step, run_until_finished
from scripted_core.errors import CapabilityMissing, LeakDetected, ScriptFailed, StepsExhausted
from scripted_core.sessions.base import make_config, start_session
from scripted_registry import PluginNotFound
from scripted_registry.ci import register_cpu_ci

register_cpu_ci(est_time=4, stage="single", runner_config="cpu")
register_cpu_ci(est_time=25, stage="single-sglang", runner_config="cpu")

pytestmark = pytest.mark.scripted(**single_device_kwargs())


def test_a_test_may_be_its_script(t):
    r = t.start_req(prompt_len=20, max_new_tokens=4)
    yield from run_until_finished(r)
    assert r.status == "finished"


def _script_that_skips(t):
    t.start_req(prompt_len=20, max_new_tokens=50, ignore_eos=True)
    yield
    pytest.skip("not on this kind of engine")


def _script_that_skips_as_unittest(t):
    yield
    raise unittest.SkipTest("not on this kind of engine")


def _script_that_lacks_something(t):
    yield
    raise CapabilityMissing("the script needs wings")


def _script_that_fails(t):
    r = t.start_req(prompt_len=20, max_new_tokens=4, ignore_eos=True)
    yield from run_until_finished(r)
    assert len(r.output_ids) == 3


def _script_that_raises(t):
    yield
    raise KeyError("lost")


def _script_that_waits_too_long(t):
    t.pause_generation(mode="in_place")
    r = t.start_req(prompt_len=20, max_new_tokens=4, rid="stuck")
    yield from run_until_finished(r, max_steps=7)


def _script_that_damages_the_pool(t):
    r = t.start_req(prompt_len=20, max_new_tokens=20, ignore_eos=True)
    yield from advance_to_decode_step(r, 2)
    # Pages that nobody declares: to the engine's audit they are gone.
    t.scheduler.token_to_kv_pool_allocator.alloc(3)
    yield
    yield


def _script_that_is_fine(t):
    assert t.is_fully_idle
    assert t.engine_stats()["kv_pool_free"] == t.engine_stats()["kv_pool_total"]
    r = t.start_req(prompt_len=100, seed=3, max_new_tokens=6, ignore_eos=True)
    yield from advance_to_decode_step(r, 2)
    t.pause_generation(mode="retract")
    yield
    t.continue_generation()
    yield from run_until_finished(r)


def _script_that_checks_its_arguments(t, number, names, *, flag):
    yield
    assert (number, list(names), flag) == (3, ["a", "b"], True)


@pytest.mark.parametrize("script", [_script_that_skips, _script_that_skips_as_unittest])
def test_a_script_can_skip_its_test(scripted_session, script):
    with pytest.raises(pytest.skip.Exception, match="not on this kind of engine"):
        scripted_session.execute_script(script)
    scripted_session.execute_script(_script_that_is_fine)


def test_a_missing_capability_is_a_skip(scripted_session):
    with pytest.raises(pytest.skip.Exception, match="needs wings"):
        scripted_session.execute_script(_script_that_lacks_something)
    scripted_session.execute_script(_script_that_is_fine)


def test_a_failed_assertion_shows_its_operands(scripted_session):
    with pytest.raises(AssertionError) as caught:
        scripted_session.execute_script(_script_that_fails)
    assert "4 == 3" in str(caught.value)
    assert "len(" in str(caught.value)
    scripted_session.execute_script(_script_that_is_fine)


def test_an_exception_of_a_script_is_a_failed_test(scripted_session):
    with pytest.raises(ScriptFailed, match=r"KeyError.*lost") as caught:
        scripted_session.execute_script(_script_that_raises)
    assert "_script_that_raises" in caught.value.remote_traceback
    scripted_session.execute_script(_script_that_is_fine)


def test_a_wait_that_runs_out_of_steps_says_in_which_state(scripted_session):
    with pytest.raises(StepsExhausted, match="after 7 steps") as caught:
        scripted_session.execute_script(_script_that_waits_too_long)
    assert "'stuck'" in str(caught.value)
    assert "last state" in str(caught.value)
    scripted_session.execute_script(_script_that_is_fine)


def test_arguments_travel(scripted_session):
    scripted_session.execute_script(
        _script_that_checks_its_arguments, args=(3, ["a", "b"]), kwargs={"flag": True}
    )


def test_the_same_script_twice_is_the_same_run(scripted_session):
    scripted_session.execute_script(_script_that_is_fine)
    first = scripted_session.event_digest()
    scripted_session.execute_script(test_a_test_may_be_its_script)
    other = scripted_session.event_digest()
    scripted_session.execute_script(_script_that_is_fine)
    assert first
    assert scripted_session.event_digest() == first
    assert other != first


@pytest.mark.scripted_requires("closed_form_output")
def test_lost_pages_are_found_at_the_next_iteration(scripted_session):
    # An engine of its own: the damage outlasts the script.
    damaged = start_session(scripted_session.config)
    try:
        with pytest.raises(LeakDetected, match="3 pages have no owner"):
            damaged.execute_script(_script_that_damages_the_pool)
    finally:
        damaged.shutdown()


_NESTED = """
import pytest
from scripted_chunked import run_until_finished

@pytest.mark.scripted(chunked_prefill_size=64)
def test_skips(t):
    yield
    pytest.skip("because the script says so")

@pytest.mark.scripted(chunked_prefill_size=64)
def test_fails(t):
    r = t.start_req(prompt_len=8, max_new_tokens=4, ignore_eos=True)
    yield from run_until_finished(r)
    assert len(r.output_ids) == 5, "as many as were asked for"

@pytest.mark.scripted(chunked_prefill_size=64)
@pytest.mark.scripted_requires("pp")
def test_needs_pp(t):
    yield

@pytest.mark.scripted(chunked_prefill_size=64)
def test_passes(t):
    yield
"""


def test_pytest_reports_skips_and_failures(tmp_path):
    try:
        make_config("reference", {})
    except PluginNotFound as error:
        pytest.skip(str(error))
    (tmp_path / "test_nested.py").write_text(_NESTED)
    command = [sys.executable, "-m", "pytest", "-rs", "--scripted-backend", "reference"]
    run = subprocess.run(
        [*command, "-p", "no:cacheprovider", "--rootdir", str(tmp_path), str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert "1 failed, 1 passed, 2 skipped" in run.stdout, run.stdout + run.stderr
    assert "because the script says so" in run.stdout
    assert "has no capability 'pp'" in run.stdout
    assert "as many as were asked for" in run.stdout
    assert "assert 4 == 5" in run.stdout
    assert run.returncode == 1
