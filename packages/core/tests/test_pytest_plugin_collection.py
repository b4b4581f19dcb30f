"""What the pytest plugin collects, and that it leaves everything else alone."""

from __future__ import annotations

from scripted_registry.ci import register_cpu_ci

register_cpu_ci(est_time=8, stage="unit", runner_config="cpu")

pytest_plugins = ["pytester"]


def test_functions_methods_and_static_methods_are_scripts(scripted_pytester):
    scripted_pytester.makepyfile(
        """
        def test_function(t):
            assert t.config.engine == "local"
            yield
            open("function", "w").close()

        class TestClass:
            word = "method"

            def test_method(self, t):
                yield
                open(self.word, "w").close()

            @staticmethod
            def test_static(t):
                yield
                open("static", "w").close()

            @classmethod
            def test_classmethod(cls, t):
                yield
                open(cls.__name__, "w").close()
        """
    )
    result = scripted_pytester.run_in_process()
    result.assert_outcomes(passed=4)
    for name in ("function", "method", "static", "TestClass"):
        assert (scripted_pytester.path / name).exists(), f"the script {name} did not run to its end"


def test_parametrize_and_fixtures_of_every_scope(scripted_pytester):
    scripted_pytester.makepyfile(
        """
        import pytest

        log = []

        @pytest.fixture(scope="session")
        def at_session():
            log.append("session")
            yield "s"

        @pytest.fixture(scope="module")
        def at_module(at_session):
            log.append("module")
            return at_session + "m"

        @pytest.fixture
        def at_function(at_module):
            log.append("function")
            yield at_module + "f"
            log.append("end of function")

        @pytest.fixture(autouse=True)
        def by_itself():
            log.append("autouse")

        @pytest.fixture
        def named():
            log.append("named")

        @pytest.mark.usefixtures("named")
        @pytest.mark.parametrize("n", [1, 2])
        @pytest.mark.parametrize("word", ["a", pytest.param("b", marks=pytest.mark.skip)])
        def test_script(t, n, word, at_function):
            assert "end of function" not in log[-3:]
            yield
            assert at_function == "smf"
            assert (n, word) in [(1, "a"), (2, "a")]
            log.append("script")

        def test_order():
            assert log == [
                "session", "module", "autouse", "named", "function", "script", "end of function",
                "autouse", "named", "function", "script", "end of function", "autouse",
            ]
        """
    )
    result = scripted_pytester.run_in_process("-v")
    result.assert_outcomes(passed=3, skipped=2)
    result.stdout.fnmatch_lines(["*::test_script[[]a-1] PASSED*", "*::test_script[[]b-1] SKIPPED*"])


def test_keywords_marks_and_collect_only_select_as_always(scripted_pytester):
    scripted_pytester.makeini("[pytest]\nmarkers = slow: takes long\n")
    scripted_pytester.makepyfile(
        """
        import pytest

        def test_one(t):
            yield

        @pytest.mark.slow
        @pytest.mark.parametrize("x", [1, 2])
        def test_two(t, x):
            yield
        """
    )
    run = scripted_pytester.run_in_process
    run("-k", "one").assert_outcomes(passed=1, deselected=2)
    run("-k", "test_two and 2").assert_outcomes(passed=1, deselected=2)
    run("-m", "slow").assert_outcomes(passed=2, deselected=1)
    run("-m", "not slow").assert_outcomes(passed=1, deselected=2)
    run("test_keywords_marks_and_collect_only_select_as_always.py::test_two[2]").assert_outcomes(
        passed=1
    )
    scripted_pytester.forget_events()
    result = run("--collect-only", "-q")
    result.stdout.fnmatch_lines(["*::test_one", "*::test_two[[]1]", "*::test_two[[]2]"])
    assert scripted_pytester.events() == []


def test_skip_and_xfail_marks(scripted_pytester):
    scripted_pytester.makepyfile(
        """
        import pytest

        @pytest.mark.skip(reason="not now")
        def test_skip(t):
            yield

        @pytest.mark.skipif("sys.platform != ''", reason="a platform")
        def test_skipif(t):
            yield

        @pytest.mark.xfail(reason="known")
        def test_xfail(t):
            yield
            assert False

        @pytest.mark.xfail(strict=True)
        def test_xpass(t):
            yield

        @pytest.mark.xfail(run=False)
        def test_not_run(t):
            yield
        """
    )
    scripted_pytester.run_in_process().assert_outcomes(skipped=2, xfailed=2, failed=1)
    assert len([e for e in scripted_pytester.events() if e.startswith("script ")]) == 2


def test_the_mark_alone_makes_a_script_and_t_comes_first(scripted_pytester):
    scripted_pytester.makepyfile(
        """
        import pytest

        @pytest.fixture
        def x():
            return 1

        @pytest.mark.scripted
        def test_without_t():
            yield

        def test_t_second(x, t):
            yield

        @pytest.mark.scripted
        class TestMarked:
            def test_method_without_t(self):
                yield
        """
    )
    result = scripted_pytester.run_in_process()
    result.assert_outcomes(errors=3)
    result.stdout.fnmatch_lines(
        [
            "*ConfigError*the script test_without_t takes (): its first parameter has to be t",
            "hint: def test_without_t(t)",
            "*ConfigError*takes (x, t): its first*",
            "hint: def test_t_second(t, x)",
        ]
    )
    assert scripted_pytester.events() == []


def test_a_generator_without_t_and_mark_is_left_to_pytest(scripted_pytester):
    scripted_pytester.makepyfile("def test_old_style():\n    yield\n")
    result = scripted_pytester.run_in_process()
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*'yield' keyword is allowed in fixtures, but not in tests*"])


def test_without_the_plugin_generators_are_left_to_pytest(scripted_pytester):
    scripted_pytester.makepyfile("def test_script(t):\n    yield\n")
    result = scripted_pytester.runpytest_inprocess("-p", "no:scripted")
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*'yield' keyword is allowed in fixtures*"])


def test_everything_else_is_untouched(scripted_pytester):
    scripted_pytester.makepyfile(
        '''
        import contextlib
        import unittest

        import pytest

        def doubled(x):
            """
            >>> doubled(2)
            4
            """
            return 2 * x

        def test_plain(tmp_path):
            assert tmp_path.exists()

        def test_fails():
            assert doubled(1) == 3

        def test_breaks():
            raise ValueError("plainly")

        class TestClass:
            def test_method(self):
                pass

        class Case(unittest.TestCase):
            def test_case(self):
                self.assertEqual(doubled(2), 4)

        @pytest.fixture
        def t():
            return "their own t"

        def test_their_own_t(t):
            assert t == "their own t"

        @pytest.fixture
        def generator(t):
            yield t

        def helper_generator(t):
            yield
        '''
    )
    result = scripted_pytester.run_in_process("--doctest-modules")
    result.assert_outcomes(passed=5, failed=2)
    assert "engines installed" not in result.stdout.str()
    assert scripted_pytester.events() == []


def test_a_plain_test_can_drive_the_engine_by_itself(scripted_pytester):
    """Whether or not a generator test came before it."""
    scripted_pytester.makepyfile(
        """
        import pytest

        def script(t, want):
            yield
            assert dict(t.config.kwargs) == want

        @pytest.mark.scripted(pages=3)
        def test_by_session(scripted_session):
            scripted_session.execute_script(script, args=[{"pages": 3}])

        @pytest.fixture
        def session(scripted_session):
            return scripted_session

        @pytest.mark.scripted(pages=4)
        def test_by_fixture(session):
            session.execute_script(script, kwargs={"want": {"pages": 4}})
        """
    )
    scripted_pytester.run_in_process().assert_outcomes(passed=2)


def test_a_fixture_gets_a_placeholder_for_t(scripted_pytester):
    scripted_pytester.makepyfile(
        """
        import pytest

        @pytest.fixture
        def request_of_mine(t):
            return t.start_req(prompt_len=3)

        def test_script(t, request_of_mine):
            yield
        """
    )
    result = scripted_pytester.run_in_process()
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(
        ["E*AttributeError: t.start_req: t exists only inside a script*scripted_session*"]
    )


def test_unittest_cases_run_inside_pytest(scripted_pytester):
    scripted_pytester.makepyfile(
        """
        import pytest
        from scripted_core.errors import EngineDied
        from scripted_core.unittest_case import ScriptedTestCase

        def fine(t, n):
            yield
            assert (n, t.config.kwargs["pages"]) == (7, 5)

        def fails(t):
            yield
            assert "left" == "right"

        def skips(t):
            yield
            pytest.skip("not today")

        def breaks(t):
            yield
            raise EngineDied("gone")

        class TestCase(ScriptedTestCase):
            ENGINE_KWARGS = {"pages": 5}

            def test_fine(self):
                self.server.execute_script(fine, args=(7,))

            def test_fails(self):
                self.server.execute_script(fails)

            def test_skips(self):
                self.server.execute_script(skips)

            def test_breaks(self):
                self.server.execute_script(breaks)
        """
    )
    result = scripted_pytester.run_in_process()
    result.assert_outcomes(passed=1, failed=1, skipped=1, errors=1)
    result.stdout.fnmatch_lines(["E*AssertionError: assert 'left' == 'right'"])
    assert [e.split()[0] for e in scripted_pytester.events() if "script" not in e] == [
        "start",
        "stop",
    ]


def test_a_run_without_scripts_imports_next_to_nothing(scripted_pytester):
    scripted_pytester.makepyfile(
        """
        import sys

        def test_plain():
            heavy = {"aiohttp", "msgspec", "numpy", "structlog", "zmq", "typer", "rich",
                     "scripted_hook", "scripted_core.sessions",
                     "scripted_core.pytest_plugin._runtime"}
            assert not heavy & set(sys.modules), heavy & set(sys.modules)
            assert "scripted_core.pytest_plugin" in sys.modules
        """
    )
    result = scripted_pytester.runpytest_subprocess()
    result.assert_outcomes(passed=1)
