"""How a script ends, and what pytest makes of it: passed, FAILED, ERROR or skipped."""

from __future__ import annotations

import importlib.util
import re
import xml.etree.ElementTree as ET

import pytest
from scripted_registry.ci import register_cpu_ci

register_cpu_ci(est_time=25, stage="unit", runner_config="cpu")

pytest_plugins = ["pytester"]

needs_xdist = pytest.mark.skipif(
    importlib.util.find_spec("xdist") is None,
    reason="missing capability 'xdist': pytest-xdist is not installed",
)

# Four that are the harness, five that are expectations, and one that is fine.
HARNESS = """
    import pytest
    from scripted_core.errors import (
        ConfigError, EngineDied, ExhaustError, LeakDetected, ScriptFailed, ScriptStalled,
        StepsExhausted,
    )

    @pytest.mark.parametrize(
        "error", [EngineDied, ScriptStalled, ExhaustError, ConfigError], ids=lambda e: e.__name__
    )
    def test_harness(t, error):
        yield
        raise error("a bad thing", hint="mend it")

    @pytest.mark.parametrize(
        "error",
        [StepsExhausted, LeakDetected, ScriptFailed, ValueError, AssertionError],
        ids=lambda e: e.__name__,
    )
    def test_expectation(t, error):
        yield
        raise error("a bad thing")

    def test_after_all_that(t):
        yield
"""


def test_harness_errors_are_errors_and_expectations_fail(scripted_pytester):
    scripted_pytester.makepyfile(HARNESS)
    result = scripted_pytester.run_in_process("-v", "-ra", "--junitxml=out.xml")
    result.assert_outcomes(passed=1, failed=5, errors=4)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(
        [
            "*::test_harness[[]EngineDied] ERROR*",
            "*::test_harness[[]ConfigError] ERROR*",
            "*::test_expectation[[]StepsExhausted] FAILED*",
            "*::test_expectation[[]LeakDetected] FAILED*",
            "*ERROR at script of test_harness[[]EngineDied]*",
            "E*EngineDied: a bad thing",
            "E*hint: mend it",
            "ERROR *::test_harness[[]EngineDied]*",
        ]
    )
    suite = ET.parse(scripted_pytester.path / "out.xml").getroot()[0]
    counts = {name: int(suite.get(name)) for name in ("tests", "failures", "errors", "skipped")}
    assert counts == {"tests": 10, "failures": 5, "errors": 4, "skipped": 0}
    cases = {case.get("name"): case for case in suite.iter("testcase")}
    assert [
        child.tag for child in cases["test_harness[EngineDied]"] if child.tag != "properties"
    ] == ["error"]
    assert cases["test_expectation[LeakDetected]"].find("failure") is not None


@needs_xdist
def test_harness_errors_are_errors_under_xdist(scripted_pytester):
    scripted_pytester.makepyfile(HARNESS)
    result = scripted_pytester.run_in_subprocess(
        "-n2", "-v", "--junitxml=out.xml", "-p", "no:cacheprovider"
    )
    result.assert_outcomes(passed=1, failed=5, errors=4)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(["*ERROR*::test_harness[[]EngineDied]*"])
    suite = ET.parse(scripted_pytester.path / "out.xml").getroot()[0]
    assert (suite.get("errors"), suite.get("failures")) == ("4", "5")
    assert sorted(scripted_pytester.starts()) == sorted(scripted_pytester.stops())


@needs_xdist
def test_xdist_workers_start_no_servers(scripted_pytester):
    scripted_pytester.makepyfile("def test_server(t):\n    yield\n")
    result = scripted_pytester.run_in_subprocess("-n1", "--scripted-backend=fake")
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(
        ["*ConfigError*a server engine in an xdist worker*", "hint: *-n 0*"]
    )
    assert scripted_pytester.starts() == []


def test_an_error_that_is_only_one_fails_the_run(scripted_pytester):
    scripted_pytester.makepyfile(
        """
        from scripted_core.errors import EngineDied

        def test_script(t):
            yield
            raise EngineDied("gone")
        """
    )
    assert scripted_pytester.run_in_process().ret == 1


def test_maxfail_and_last_failed_count_errors(scripted_pytester):
    scripted_pytester.makepyfile(
        """
        from scripted_core.errors import EngineDied

        def test_a(t):
            yield

        def test_b(t):
            yield
            raise EngineDied("gone")

        def test_c(t):
            yield
            raise EngineDied("gone")
        """
    )
    scripted_pytester.run_in_process("-x").assert_outcomes(passed=1, errors=1)
    result = scripted_pytester.run_in_process("--lf", "--maxfail=2")
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*run-last-failure: rerun previous 1 failure*"])
    scripted_pytester.run_in_process("--maxfail=2").assert_outcomes(passed=1, errors=2)
    scripted_pytester.run_in_process("--lf").assert_outcomes(errors=2)


def test_outcomes_of_pytest_mean_in_a_script_what_they_mean_everywhere(scripted_pytester):
    scripted_pytester.makepyfile(
        """
        import pytest

        def test_skip(t):
            yield
            pytest.skip("not today")

        def test_fail(t):
            yield
            pytest.fail("no good")

        def test_xfail(t):
            yield
            pytest.xfail("known")

        def test_importorskip(t):
            yield
            pytest.importorskip("no_such_module_anywhere")

        def test_raises_around_a_yield(t):
            with pytest.raises(ZeroDivisionError):
                yield
                1 / 0
            yield

        def test_raises_nothing(t):
            with pytest.raises(ZeroDivisionError):
                yield
        """
    )
    result = scripted_pytester.run_in_process("-ra")
    result.assert_outcomes(passed=1, failed=2, skipped=2, xfailed=1)
    result.stdout.fnmatch_lines(
        [
            "*Failed: no good*",
            "*DID NOT RAISE*ZeroDivisionError*",
            "SKIPPED*not today",
            "SKIPPED*no_such_module_anywhere*",
            "XFAIL*known",
        ]
    )


def test_a_harness_error_under_an_xfail_mark_is_xfailed_like_any_error(scripted_pytester):
    scripted_pytester.makepyfile(
        """
        import pytest
        from scripted_core.errors import EngineDied, ScriptFailed

        @pytest.mark.xfail(raises=EngineDied)
        def test_expected(t):
            yield
            raise EngineDied("gone")

        @pytest.mark.xfail(raises=ScriptFailed)
        def test_another(t):
            yield
            raise EngineDied("gone")
        """
    )
    scripted_pytester.run_in_process().assert_outcomes(xfailed=1, errors=1)


def test_a_failed_assert_shows_its_operands_and_no_frame_of_the_harness(scripted_pytester):
    scripted_pytester.makepyfile(
        """
        def test_script(t, tmp_path):
            rids = ["r0", "r1"]
            yield
            assert rids == ["r0", "r2"]
        """
    )
    result = scripted_pytester.run_in_process()
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        [">*assert rids == *", "E*At index 1 diff: 'r1' != 'r2'", "*.py:4: AssertionError"]
    )
    assert "in_process.py" not in result.stdout.str()


def test_another_exception_of_a_script_fails_with_its_own_traceback(scripted_pytester):
    scripted_pytester.makepyfile(
        """
        def broken(x):
            return {}[x]

        def test_script(t):
            yield
            broken("missing")
        """
    )
    result = scripted_pytester.run_in_process("-ra")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        [
            '>*broken("missing")',
            ">*return {}[[]x]",
            "E*KeyError: 'missing'",
            "*scripted last state*",
            "nothing runs",
        ]
    )
    assert "outcome.py" not in result.stdout.str()


def test_errors_of_marks_come_without_frames_of_the_harness(scripted_pytester):
    scripted_pytester.makepyfile(
        """
        import pytest

        @pytest.mark.scripted(16)
        def test_positional(t):
            yield

        @pytest.mark.scripted_options(check_invariant=False)
        def test_unknown_option(t):
            yield

        @pytest.mark.scripted_options(timeout_s="soon")
        def test_wrong_value(t):
            yield

        @pytest.mark.scripted_requires("teleport")
        def test_unknown_capability(t):
            yield

        @pytest.mark.scripted_requires(capability="retract")
        def test_by_name(t):
            yield
        """
    )
    result = scripted_pytester.run_in_process()
    result.assert_outcomes(errors=5)
    result.stdout.fnmatch_lines(
        [
            "ConfigError [[]config-invalid]: @pytest.mark.scripted(16,)* has positional arguments",
            "hint: engine arguments go by name: *",
            "ConfigError*scripted_options does not take check_invariant",
            "hint: it takes check_invariants, timeout_s, stall_timeout_s",
            "ConfigError*timeout_s='soon'*is no length of time",
            "ConfigError*scripted_requires('teleport')*no such capability",
            "hint: one of *retract*",
            "ConfigError*scripted_requires does not take capability",
        ]
    )
    assert "_runtime.py" not in result.stdout.str()


def test_capabilities_that_are_missing_skip_before_other_fixtures(scripted_pytester):
    scripted_pytester.makepyfile(
        """
        import pytest
        from scripted_core import Capability

        @pytest.fixture
        def costly():
            raise AssertionError("set up for nothing")

        @pytest.mark.scripted_requires("retract", Capability.PAUSE_IN_PLACE)
        def test_missing(t, costly):
            yield

        @pytest.mark.scripted_requires("retract", "chunked_prefill")
        def test_there(t):
            yield

        @pytest.mark.scripted_requires("retract")
        class TestBoth:
            @pytest.mark.scripted_requires("pp")
            def test_marks_add_up(self, t):
                yield
        """
    )
    result = scripted_pytester.run_in_process("-rs")
    result.assert_outcomes(passed=1, skipped=2)
    result.stdout.fnmatch_lines(
        [
            "SKIPPED*] test_cap*.py:8: engine 'local' has no capability 'pause_in_place'",
            "SKIPPED*engine 'local' has no capability 'pp'",
        ]
    )


def test_what_an_engine_says_that_it_lacks_is_asked_before_a_start(scripted_pytester):
    scripted_pytester.makepyfile(
        """
        import pytest

        @pytest.mark.scripted_requires("dp")
        def test_without(t):
            yield

        @pytest.mark.scripted(dp_size=2)
        @pytest.mark.scripted_requires("dp")
        def test_with(t):
            yield

        @pytest.mark.scripted_requires("pp", "dp")
        def test_the_first_is_not_known_before(t):
            yield
        """
    )
    result = scripted_pytester.run_in_process("--scripted-backend", "other", "-rs")
    result.assert_outcomes(skipped=3)
    assert scripted_pytester.starts() == ["other {'dp_size': 2}"]
    result.stdout.fnmatch_lines(["SKIPPED*engine 'other' has no capability 'dp'"])


def test_the_time_limit_and_the_stall_limit(scripted_pytester):
    scripted_pytester.makepyfile(
        """
        import time

        import pytest

        def endless(t):
            while True:
                yield

        def test_of_the_option(t):
            yield from endless(t)

        @pytest.mark.scripted_options(timeout_s=0.06)
        def test_of_the_mark(t):
            yield from endless(t)

        @pytest.mark.scripted_options(timeout_s=None, stall_timeout_s=0.1)
        def test_stalls(t):
            yield
            time.sleep(30)

        def test_next(t):
            yield
        """
    )
    result = scripted_pytester.run_in_process("--scripted-timeout=0.05")
    result.assert_outcomes(errors=3, passed=1)
    result.stdout.fnmatch_lines(
        [
            "ReplyTimeout*the script did not end within 0.05 s",
            "ReplyTimeout*the script did not end within 0.06 s",
            "ScriptStalled*no iteration ended within 0.1 s",
        ]
    )


def test_ctrl_c_ends_the_run_and_the_engines(scripted_pytester):
    scripted_pytester.makepyfile(
        """
        import os
        import signal
        import threading
        import time

        import pytest

        @pytest.fixture(scope="session", autouse=True)
        def of_the_session():
            yield
            with open("events.txt", "a") as file:
                file.write("end of session fixture\\n")

        def test_spins(t):
            yield
            threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGINT)).start()
            deadline = time.monotonic() + 20
            while time.monotonic() < deadline:
                yield

        def test_never_reached(t):
            yield
        """
    )
    result = scripted_pytester.run_in_subprocess()
    assert result.ret == pytest.ExitCode.INTERRUPTED
    result.stdout.fnmatch_lines(["*KeyboardInterrupt*"])
    assert [re.split(" (?:t|check|local)", line)[0] for line in scripted_pytester.events()] == [
        "start",
        "script",
        "end of session fixture",
        "stop",
    ]


def test_scripts_on_a_server(scripted_pytester):
    """The program decides by the name of a script how it ends."""
    scripted_pytester.makeini("[pytest]\npython_functions = succeeds fails skips exits test_*\n")
    scripted_pytester.makepyfile(
        """
        import pytest

        def succeeds(t):
            yield

        def fails(t):
            yield

        def skips(t):
            yield

        def exits(t):
            yield

        def test_argument(t, request):
            yield

        @pytest.mark.scripted(colour="red")
        class TestRed:
            @staticmethod
            def test_local(t):
                yield
        """
    )
    result = scripted_pytester.run_in_process(
        "-rs", "--scripted-backend=fake", "-k", "succeeds or fails or skips or exits or argument"
    )
    result.assert_outcomes(passed=1, failed=1, skipped=1, errors=2, deselected=1)
    result.stdout.fnmatch_lines(
        [
            "EngineDied*",
            "*about to exit*",
            "ScriptNotImportable*'request' cannot travel*",
            "ScriptFailed*the script failed: ValueError: a bad value",
            "Tb: in script",
            "step 2",
            "SKIPPED*] test_scripts_on_a_server.py:9: not today",
        ]
    )
    assert scripted_pytester.starts() == ["fake {}", "fake {}"], "the dead one is replaced"
    assert scripted_pytester.stops() == ["fake {}", "fake {}"]
