"""Which engines a run starts, how often, with what arguments, and when they are stopped."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET

import pytest
from scripted_registry.ci import register_cpu_ci

register_cpu_ci(est_time=25, stage="unit", runner_config="cpu")

pytest_plugins = ["pytester"]


def test_one_engine_for_each_distinct_configuration(scripted_pytester):
    scripted_pytester.makepyfile(
        """
        import pytest

        pytestmark = pytest.mark.scripted(pages=1, rows=1)

        def test_module(t):
            yield
            assert t.config.kwargs == {"pages": 1, "rows": 1}

        @pytest.mark.scripted(pages=2)
        class TestClass:
            def test_class(self, t):
                yield
                assert t.config.kwargs == {"pages": 2, "rows": 1}

            @pytest.mark.scripted(pages=3, chunk=[8])
            def test_function(self, t):
                yield
                assert t.config.kwargs == {"pages": 3, "rows": 1, "chunk": [8]}

            @pytest.mark.scripted(pages=1)
            def test_same_as_the_module(self, t):
                yield

            @pytest.mark.parametrize("n", [
                0,
                pytest.param(5, marks=pytest.mark.scripted(pages=5)),
            ])
            def test_parametrized(self, t, n):
                yield
                assert t.config.kwargs["pages"] == (n or 2)
        """
    )
    scripted_pytester.run_in_process().assert_outcomes(passed=6)
    expected = [
        "local {'pages': 1, 'rows': 1}",
        "local {'pages': 2, 'rows': 1}",
        "local {'chunk': [8], 'pages': 3, 'rows': 1}",
        "local {'pages': 5, 'rows': 1}",
    ]
    assert sorted(scripted_pytester.starts()) == sorted(expected)
    assert sorted(scripted_pytester.stops()) == sorted(expected)
    assert scripted_pytester.events()[-1].startswith("stop")


def test_a_damaged_engine_is_replaced_and_the_next_test_runs(scripted_pytester):
    scripted_pytester.makepyfile(
        """
        from scripted_core.errors import LeakDetected

        def test_fails(t):
            yield
            assert False

        def test_sound_after_a_failure(t):
            yield

        def test_leaks(t):
            yield
            raise LeakDetected("a page is gone")

        def test_next(t):
            yield
        """
    )
    scripted_pytester.run_in_process().assert_outcomes(passed=2, failed=2)
    kinds = [line.split()[0] for line in scripted_pytester.events()]
    assert kinds == ["start", "script", "script", "script", "stop", "start", "script", "stop"]


def test_few_engines_live_at_a_time_and_all_are_stopped(scripted_pytester):
    scripted_pytester.makepyfile(
        """
        import pytest

        @pytest.mark.parametrize(
            "n", [pytest.param(n, marks=pytest.mark.scripted(pages=n)) for n in range(12)]
        )
        def test_script(t, n):
            yield
        """
    )
    scripted_pytester.run_in_process().assert_outcomes(passed=12)
    alive = peak = 0
    for line in scripted_pytester.events():
        alive += {"start": 1, "stop": -1}.get(line.split()[0], 0)
        peak = max(peak, alive)
    assert (alive, peak) == (0, 8)


def test_an_engine_that_does_not_stop_keeps_no_other_from_it(scripted_pytester):
    scripted_pytester.makepyfile(
        """
        import pytest

        @pytest.mark.scripted(pages=1)
        def test_one(t):
            yield

        @pytest.mark.scripted(stuck=True)
        def test_stuck(t):
            yield

        @pytest.mark.scripted(pages=2)
        def test_two(t):
            yield
        """
    )
    result = scripted_pytester.run_in_process()
    assert result.ret != 0
    assert "it does not stop" in result.stdout.str() + result.stderr.str()
    assert sorted(scripted_pytester.stops()) == ["local {'pages': 1}", "local {'pages': 2}"]


def test_tests_of_one_server_are_brought_together_and_others_stay(scripted_pytester):
    scripted_pytester.makepyfile(
        """
        import pytest

        red, blue = pytest.mark.scripted(colour="red"), pytest.mark.scripted(colour="blue")

        def test_0():
            pass

        @red
        def test_1(t):
            yield

        def test_2():
            pass

        @blue
        def test_3(t):
            yield

        @red
        def test_4(t):
            yield

        def test_5():
            pass

        @blue
        def test_6(scripted_session):
            pass
        """
    )

    def order(backend):
        result = scripted_pytester.run_in_process(
            "--collect-only", "-q", f"--scripted-backend={backend}"
        )
        return [line.rpartition("_")[2] for line in result.outlines if "::test_" in line]

    assert order("fake") == ["0", "1", "4", "2", "3", "6", "5"]
    assert order("local") == ["0", "1", "2", "3", "4", "5", "6"]


def test_one_server_lives_at_a_time(scripted_pytester):
    scripted_pytester.makeini("[pytest]\npython_functions = succeeds\n")
    scripted_pytester.makepyfile(
        """
        import pytest

        @pytest.mark.scripted(colour="red")
        def succeeds(t):
            yield
        """,
        test_other="""
        import pytest

        @pytest.mark.scripted(colour="blue")
        def succeeds(t):
            yield

        """,
    )
    result = scripted_pytester.run_in_process(
        "--scripted-backend=fake", "--scripted-backend=local", "-v"
    )
    result.assert_outcomes(passed=4)
    alive = 0
    for line in scripted_pytester.events():
        if " fake " in line:
            alive += {"start": 1, "stop": -1}[line.split()[0]]
            assert alive <= 1
    assert alive == 0
    assert sorted(scripted_pytester.starts()) == sorted(scripted_pytester.stops())


def test_several_backends_parametrize_every_script(scripted_pytester):
    scripted_pytester.makepyfile(
        """
        import pytest

        @pytest.mark.parametrize("n", [1])
        def test_script(t, scripted_backend, n):
            yield
            assert t.config.engine == scripted_backend

        def test_session(scripted_session):
            pass

        def test_plain():
            pass

        @pytest.mark.parametrize("scripted_backend", ["other"], indirect=True)
        def test_its_own(t):
            yield
            assert t.config.engine == "other"
        """
    )
    result = scripted_pytester.run_in_process(
        "-v", *("--scripted-backend=local", "--scripted-backend=other", "--scripted-backend=local")
    )
    result.assert_outcomes(passed=6)
    result.stdout.fnmatch_lines(
        [
            "scripted: backend local, other",
            "*::test_script[[]*local*] PASSED*",
            "*::test_script[[]*other*] PASSED*",
            "*::test_session[[]local] PASSED*",
            "*::test_session[[]other] PASSED*",
            "*::test_plain PASSED*",
            "*::test_its_own[[]other] PASSED*",
        ]
    )
    one = scripted_pytester.run_in_process("-v", "--scripted-backend=other", "-k", "test_script")
    one.stdout.fnmatch_lines(["*::test_script[[]1] PASSED*"])


def test_an_unknown_backend_names_the_nearest(scripted_pytester):
    scripted_pytester.makepyfile("def test_a(t):\n    yield\n\ndef test_plain():\n    pass\n")
    result = scripted_pytester.run_in_process("--scripted-backend=lokal")
    result.assert_outcomes(errors=1, passed=1)
    result.stdout.fnmatch_lines(["PluginNotFound [[]plugin-not-found]:*'lokal'*", "hint:*local*"])


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("--scripted-seed=x", "*invalid int value: 'x'*"),
        ("--scripted-seed=-1", "*scripted_seed='-1' is not a whole number of at least 0"),
        ("--scripted-timeout=x", "*invalid float value: 'x'*"),
        ("--scripted-timeout=0", "*scripted_timeout='0.0' is not a positive number of seconds"),
        ("--scripted-timeout=nan", "*scripted_timeout='nan' is not a positive number*"),
        ("--scripted-trace=test_it.py", "*scripted_trace='test_it.py' is not a folder"),
        ("scripted_seed = soon", "*scripted_seed='soon' is not a whole number*"),
        ("scripted_timeout = -3", "*scripted_timeout='-3' is not a positive number*"),
    ],
)
def test_bad_options_are_usage_errors_at_once(scripted_pytester, argument, message):
    """Also in a run without scripts."""
    scripted_pytester.makepyfile(test_it="def test_plain():\n    pass\n")
    arguments = [argument]
    if not argument.startswith("--"):
        scripted_pytester.makeini(f"[pytest]\n{argument}\n")
        arguments = []
    result = scripted_pytester.run_in_process(*arguments)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([message])
    assert "Traceback" not in result.stderr.str()


def test_ini_twins_and_the_command_line_over_them(scripted_pytester):
    scripted_pytester.makeini(
        """
        [pytest]
        scripted_backend = other
        scripted_seed = 10
        scripted_timeout = 0.05
        scripted_trace = traces
        """
    )
    scripted_pytester.makepyfile(
        """
        def test_rids(t):
            yield
            assert (t.config.engine, t.rids[0]) == ("other", "r0-a")

        def test_endless(t):
            while True:
                yield
        """
    )
    result = scripted_pytester.run_in_process("-v")
    result.assert_outcomes(passed=1, errors=1)
    result.stdout.fnmatch_lines(["scripted: backend other", "*did not end within 0.05 s"])
    assert (scripted_pytester.path / "traces").is_dir()
    result = scripted_pytester.run_in_process(
        "--scripted-seed=11", "--scripted-backend=local", "--scripted-trace=elsewhere", "-k", "rids"
    )
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["E*('local', 'r0-b') == ('other', 'r0-a')*"])
    assert (scripted_pytester.path / "elsewhere").is_dir()


def test_traces_are_json_lines_for_each_test(scripted_pytester):
    scripted_pytester.makepyfile(
        test_it="""
        import pytest

        def test_three(t, tmp_path, monkeypatch):
            monkeypatch.chdir(tmp_path)
            yield
            yield
            yield

        def test_none(t):
            if False:
                yield

        @pytest.mark.parametrize("word", ["é/" * 200])
        def test_long(t, word):
            yield
            assert False
        """
    )
    result = scripted_pytester.run_in_process("--scripted-trace=traces")
    result.assert_outcomes(passed=2, failed=1)
    result.stdout.fnmatch_lines(
        ["*scripted trace*", "written to *traces/test_it.py_test_long*.jsonl"]
    )
    traces = {path.name: path.read_text() for path in (scripted_pytester.path / "traces").iterdir()}
    assert len(traces) == 3
    steps = [
        json.loads(line)["step"] for line in traces["test_it.py_test_three.jsonl"].splitlines()
    ]
    assert steps == [0, 1, 2]
    assert traces["test_it.py_test_none.jsonl"] == ""
    assert max(len(name.encode()) for name in traces) < 255


def test_junit_properties_and_the_options_of_a_script(scripted_pytester):
    scripted_pytester.makepyfile(
        """
        import pytest

        pytestmark = pytest.mark.scripted_options(check_invariants=False)

        def test_without(t):
            yield

        @pytest.mark.scripted_options(check_invariants=True)
        def test_with(t):
            yield
        """
    )
    result = scripted_pytester.run_in_process("--junitxml=out.xml", "--scripted-seed=4")
    result.assert_outcomes(passed=2)
    case, later = ET.parse(scripted_pytester.path / "out.xml").iter("testcase")
    properties = {p.get("name"): p.get("value") for p in case.iter("property")}
    # The engine was started for the first of the two, and shared by both.
    assert float(properties.pop("scripted_engine_start_s")) >= 0
    group = properties.pop("scripted_engine_group")
    assert group.startswith("local-in_process-")
    shared = {p.get("name"): p.get("value") for p in later.iter("property")}
    assert shared["scripted_engine_group"] == group
    assert "scripted_engine_start_s" not in shared
    assert properties == {
        "scripted_backend": "local",
        "scripted_mode": "in_process",
        "scripted_seed": "4",
    }
    assert [line for line in scripted_pytester.events() if line.startswith("script")] == [
        "script test_without check_invariants=False",
        "script test_with check_invariants=True",
    ]


def test_the_hooks_of_a_conftest(scripted_pytester):
    scripted_pytester.makeconftest(
        """
        import os

        import pytest

        def pytest_scripted_configure_engine(config, engine_config):
            assert isinstance(config, pytest.Config)
            with open("events.txt", "a") as file:
                file.write(f"configure {dict(engine_config.kwargs)}\\n")
            if engine_config.kwargs.get("pages") == 13:
                pytest.skip("an unlucky engine")
            if engine_config.kwargs.get("pages") == 14:
                raise pytest.UsageError("refused")

        def pytest_scripted_skip_reason(item, capabilities):
            if "fussy" in item.name and "pp" not in capabilities:
                return "too fussy"
        """
    )
    scripted_pytester.makepyfile(
        """
        import pytest

        def test_one(t):
            yield

        def test_two(t):
            yield

        def test_fussy(t):
            yield

        @pytest.mark.scripted(pages=13)
        def test_refused(t):
            yield

        @pytest.mark.scripted(pages=14)
        def test_refused_as_wrong(t):
            yield
        """
    )
    result = scripted_pytester.run_in_process("-rs")
    result.assert_outcomes(passed=2, skipped=2, errors=1)
    result.stdout.fnmatch_lines(["E*refused", "SKIPPED*too fussy", "SKIPPED*an unlucky engine"])
    assert scripted_pytester.events()[:2] == ["configure {}", "start local {}"]
    assert scripted_pytester.starts() == ["local {}"]


def test_a_hook_of_another_folder_is_not_asked(scripted_pytester):
    scripted_pytester.makepyfile(
        **{
            "a/conftest": """
                def pytest_scripted_configure_engine(config, engine_config):
                    raise AssertionError("asked for another folder's test")
                """,
            "a/test_a": "def test_plain():\n    pass\n",
            "b/test_b": "def test_script(t):\n    yield\n",
        }
    )
    scripted_pytester.run_in_process().assert_outcomes(passed=2)


def test_sections_of_plugins_and_what_hooks_break(scripted_pytester):
    scripted_pytester.makeconftest(
        """
        from scripted_registry import get_plugin_manager, hookimpl

        SCRIPTED_API = 1

        class Reports:
            SCRIPTED_API = 1

            @hookimpl
            def scripted_report_sections(self, run):
                if "breaks" in run.script:
                    raise RuntimeError("no section today")
                return [("what a plugin saw", f"in {run.script}")]

            @hookimpl
            def scripted_script_before_run(self, run):
                if "unannounced" in run.script:
                    raise RuntimeError("no announcement today")

        get_plugin_manager().register(Reports(), name="reports")
        """
    )
    scripted_pytester.makepyfile(
        """
        def test_fails(t):
            yield
            assert False

        def test_breaks(t):
            yield

        def test_fails_and_breaks(t):
            yield
            assert False

        def test_unannounced(t):
            yield

        def test_next(t):
            yield
        """
    )
    result = scripted_pytester.run_in_process()
    result.assert_outcomes(passed=1, failed=2, errors=2)
    result.stdout.fnmatch_lines(
        [
            "*scripted_report_sections failed:*RuntimeError: no section today",
            "E*RuntimeError: no announcement today",
            "*what a plugin saw*",
            "in *test_fails",
        ]
    )
    assert "INTERNALERROR" not in result.stdout.str() + result.stderr.str()


@pytest.mark.parametrize(
    "source",
    [
        "import no_such_module_anywhere",
        "from scripted_registry import hookimpl\nSCRIPTED_API = 99\n",
        "from scripted_registry import hookimpl\nSCRIPTED_API = 1\n"
        "@hookimpl\ndef scripted_register_engines():\n    raise RuntimeError('broken inside')\n",
    ],
    ids=["import", "api", "hook"],
)
def test_a_broken_plugin_is_a_collection_error_with_its_hint(
    scripted_pytester, monkeypatch, source
):
    monkeypatch.setenv("SCRIPTED_PLUGINS", "broken_plugin")
    scripted_pytester.makepyfile(
        broken_plugin=source,
        test_script="def test_script(t):\n    yield\n",
        test_plain="def test_plain():\n    pass\n",
    )
    result = scripted_pytester.runpytest_subprocess("--continue-on-collection-errors")
    result.assert_outcomes(errors=1, passed=1)
    result.stdout.fnmatch_lines(["*ERROR collecting test_script.py*", "*broken_plugin*", "hint: *"])
    assert "INTERNALERROR" not in result.stdout.str() + result.stderr.str()
