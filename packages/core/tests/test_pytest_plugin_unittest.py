"""`ScriptedTestCase` under pytest: whose engine a unittest class gets."""

from __future__ import annotations

from scripted_registry.ci import register_cpu_ci

register_cpu_ci(est_time=2, stage="unit", runner_config="cpu")

pytest_plugins = ["pytester"]


def test_a_unittest_class_borrows_the_engine_of_the_scripts(scripted_pytester):
    scripted_pytester.makepyfile(
        """
        from scripted_core import ScriptedTestCase

        def script(t):
            yield

        class TestFirst(ScriptedTestCase):
            BACKEND = "local"

            def test_one(self):
                self.server.execute_script(script)

        class TestSecond(TestFirst):
            ENGINE_KWARGS = {"page_size": 2}

        def test_script(t):
            yield
        """
    )
    scripted_pytester.run_in_process("--scripted-backend=local").assert_outcomes(passed=3)
    assert len(scripted_pytester.starts()) == 2
    assert sorted(scripted_pytester.stops()) == sorted(scripted_pytester.starts())


def test_unittest_classes_share_an_engine_of_their_own_run_without_a_script_beside_them(
    scripted_pytester,
):
    scripted_pytester.makepyfile(
        """
        from scripted_core import ScriptedTestCase

        def script(t):
            yield

        class TestFirst(ScriptedTestCase):
            BACKEND = "local"

            def test_one(self):
                self.server.execute_script(script)

        class TestSecond(TestFirst):
            pass
        """
    )
    scripted_pytester.run_in_process().assert_outcomes(passed=2)
    assert len(scripted_pytester.starts()) == 1
    assert scripted_pytester.stops() == scripted_pytester.starts()


def test_a_unittest_class_of_a_server_stands_beside_the_scripts_of_that_server(scripted_pytester):
    scripted_pytester.makepyfile(
        """
        import pytest
        from scripted_core import ScriptedTestCase

        def succeeds(t):
            yield

        @pytest.mark.scripted
        def test_default(scripted_session):
            pass

        @pytest.mark.scripted(page_size=2)
        def test_other(scripted_session):
            pass

        class TestLast(ScriptedTestCase):
            BACKEND = "fake"

            def test_one(self):
                assert self.server.dirty is None
        """
    )
    scripted_pytester.run_in_process("--scripted-backend=fake").assert_outcomes(passed=3)
    assert len(scripted_pytester.starts()) == 2
