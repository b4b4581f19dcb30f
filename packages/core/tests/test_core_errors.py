from __future__ import annotations

import pickle
import re
import unittest

import pytest
from scripted_core import errors
from scripted_core.capabilities import Capability
from scripted_core.errors import (
    CapabilityMissing,
    LeakDetected,
    ScriptedError,
    ScriptFailed,
    StepsExhausted,
    error_from_code,
)
from scripted_core.ports import JobOutcome
from scripted_core.sessions.outcome import raise_local, raise_remote, to_message
from scripted_registry.ci import register_cpu_ci
from scripted_registry.ci.scan import CiRegistrationError  # noqa: F401

register_cpu_ci(est_time=1, stage="unit", runner_config="cpu")


def tree(root):
    yield root
    for child in root.__subclasses__():
        yield from tree(child)


ALL = sorted(
    (
        one
        for one in set(tree(ScriptedError))
        if one.__module__.startswith(("scripted_core.", "scripted_registry."))
    ),
    key=lambda one: one.__name__,
)


def test_every_error_has_a_code_of_its_own():
    codes = [one.code for one in ALL]
    assert len(set(codes)) == len(codes)
    assert all(re.fullmatch(r"[a-z]+(-[a-z]+)*", code) for code in codes)
    for one in ALL:
        assert "code" in vars(one), f"{one.__name__} has its parent's code"


def test_only_the_expected_ones_are_assertion_errors():
    assert {one for one in ALL if issubclass(one, AssertionError)} == {
        ScriptFailed,
        StepsExhausted,
        LeakDetected,
    }


def test_every_public_name_is_exported_and_documented():
    for name in errors.__all__:
        assert getattr(errors, name).__doc__
    core = {one.__name__ for one in ALL if one.__module__ == "scripted_core.errors"}
    assert core <= set(errors.__all__)


@pytest.mark.parametrize("one", ALL, ids=lambda one: one.__name__)
def test_an_error_travels_by_code_and_by_pickle(one):
    error = error_from_code(one.code, "what happened", hint="do this")
    assert type(error) is one
    assert error.hint == "do this"
    assert "what happened" in str(error)
    assert "do this" in str(error)
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is one
    assert (str(copy), copy.hint) == (str(error), error.hint)


def test_an_unknown_code_is_the_root():
    assert type(error_from_code("from-the-future", "m")) is ScriptedError


# -- outcomes, engine side to test side ----------------------------------------------------------


def outcome_of(error):
    return JobOutcome(
        error=error, traceback_text="Traceback: in script", last_state="step 3", steps=3
    )


def across(error):
    """What the test side raises for what the script raised."""
    with pytest.raises(BaseException) as caught:  # noqa: PT011
        raise_remote(to_message(1, outcome_of(error)))
    return caught.value


def local(error):
    """The same without a wire."""
    with pytest.raises(BaseException) as caught:  # noqa: PT011
        raise_local(outcome_of(error))
    return caught.value


@pytest.mark.parametrize("way", [across, local])
class TestBothWays:
    @pytest.mark.parametrize(
        "error",
        [
            pytest.skip.Exception("why"),
            unittest.SkipTest("why"),
            CapabilityMissing("why", hint="another engine"),
        ],
    )
    def test_skips(self, way, error):
        found = way(error)
        assert isinstance(found, pytest.skip.Exception)
        assert "why" in str(found)

    def test_a_new_skip_is_one_for_unittest_too(self, way):
        assert isinstance(way(unittest.SkipTest("why")), unittest.SkipTest)
        assert isinstance(way(CapabilityMissing("why")), unittest.SkipTest)

    def test_xfail(self, way):
        found = way(pytest.xfail.Exception("known"))
        assert isinstance(found, pytest.xfail.Exception)
        assert "known" in str(found)

    def test_fail(self, way):
        found = way(pytest.fail.Exception("on purpose"))
        assert isinstance(found, pytest.fail.Exception)
        assert "on purpose" in str(found)

    def test_a_failed_assertion_is_an_assertion_error(self, way):
        found = way(AssertionError("assert 1 == 2"))
        assert isinstance(found, AssertionError)
        assert "assert 1 == 2" in str(found)

    def test_another_exception_fails_the_script(self, way):
        found = way(KeyError("k"))
        assert type(found) is ScriptFailed
        assert "KeyError" in str(found)
        assert found.remote_traceback == "Traceback: in script"
        assert found.last_state == "step 3"
        assert "step 3" in str(found)

    @pytest.mark.parametrize("one", [one for one in ALL if one is not CapabilityMissing])
    def test_our_own_errors_keep_class_message_and_hint(self, way, one):
        found = way(error_from_code(one.code, "what happened", hint="do this"))
        assert type(found) is one
        assert "what happened" in str(found)
        assert found.hint == "do this"
        assert str(found).count("do this") == 1


def test_the_remote_text_has_traceback_and_last_state():
    for error in (AssertionError("a"), LeakDetected("l"), errors.ExhaustError("e")):
        text = str(across(error))
        assert "Traceback: in script" in text
        assert "last state:\nstep 3" in text


def test_a_failed_script_says_so_and_an_error_of_the_harness_does_not():
    assert "the script failed" in str(across(ValueError("v")))
    assert "the script failed" not in str(across(errors.ExhaustError("e")))


def test_an_interrupt_goes_through_as_it_is():
    error = KeyboardInterrupt()
    assert local(error) is error


def test_a_script_that_exits_has_failed():
    assert isinstance(local(SystemExit(0)), ScriptFailed)


def test_capabilities_are_lower_case_words():
    for one in Capability:
        assert re.fullmatch(r"[a-z]+(_[a-z]+)*", one.value)
        assert one.name == one.value.upper()
