"""Server arguments and an engine to attach to, from the command line and the ini file."""

from __future__ import annotations

import pytest
from scripted_registry.ci import register_cpu_ci

register_cpu_ci(est_time=1, stage="unit", runner_config="cpu")

pytest_plugins = ["pytester"]

TWO_TESTS = """
    import pytest

    @pytest.mark.scripted(pages=1, rows=2)
    def test_marked(t):
        yield
        assert t.config.kwargs == {"pages": %d, "rows": 2, "chunk": [8]}

    def test_bare(t):
        yield
        assert t.config.kwargs == {"pages": %d, "chunk": [8]}
"""


def test_arguments_of_the_command_line_win_over_marks_and_the_ini_file(scripted_pytester):
    scripted_pytester.makepyfile(TWO_TESTS % (5, 5))
    scripted_pytester.makeini("[pytest]\nscripted_engine_args = pages=3 chunk=[8]\n")
    scripted_pytester.run_in_process("--scripted-engine-arg", "pages=5").assert_outcomes(passed=2)


def test_arguments_of_the_ini_file_win_over_marks(scripted_pytester):
    scripted_pytester.makepyfile(TWO_TESTS % (3, 3))
    scripted_pytester.makeini("[pytest]\nscripted_engine_args = pages=3 chunk=[8]\n")
    scripted_pytester.run_in_process().assert_outcomes(passed=2)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--scripted-engine-arg", "pages"], "--scripted-engine-arg 'pages' is not of the form"),
        (
            ["--scripted-engine-arg", "pages=1", "--scripted-engine-arg", "pages=2"],
            "--scripted-engine-arg pages is given twice",
        ),
        (["--scripted-attach", "nowhere"], "'nowhere' is no address to attach to"),
        (["--scripted-attach", "h:1"], "no key to attach to h:1 with"),
        (
            ["--scripted-attach", "h:1", "--scripted-key", "k", "--scripted-backend", "local"],
            "--scripted-backend has no place beside it",
        ),
        (
            ["--scripted-attach", "h:1", "--scripted-key", "k", "--scripted-engine-arg", "a=1"],
            "--scripted-engine-arg has no place beside it",
        ),
    ],
)
def test_what_cannot_be_used_ends_the_run_before_any_test(
    scripted_pytester, monkeypatch, arguments, words
):
    monkeypatch.delenv("SCRIPTED_CLIENT_KEY_FILE", raising=False)
    scripted_pytester.makepyfile("def test_one(t):\n    yield\n")
    result = scripted_pytester.run_in_process(*arguments)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([f"*{words.replace('[', '[[]')}*"])
    assert scripted_pytester.starts() == []


def test_an_engine_that_is_not_there_makes_every_test_an_error_with_the_reason(scripted_pytester):
    from scripted_core.wire.keys import make_keys

    make_keys(scripted_pytester.path / "keys")
    scripted_pytester.makepyfile("def test_one(t):\n    yield\n")
    result = scripted_pytester.run_in_process(
        "--scripted-attach", "127.0.0.1:1", "--scripted-key", "keys/client.key"
    )
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(
        ["scripted: attach 127.0.0.1:1", "*cannot reach tcp://127.0.0.1:1: nobody listens there*"]
    )


def test_workers_of_xdist_cannot_share_an_engine(scripted_pytester):
    from scripted_core.wire.keys import make_keys

    make_keys(scripted_pytester.path / "keys")
    scripted_pytester.makepyfile("def test_one(t):\n    yield\n")
    result = scripted_pytester.run_in_subprocess(
        *("-n", "2", "--scripted-attach", "127.0.0.1:1", "--scripted-key", "keys/client.key")
    )
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*2 xdist workers cannot be attached to one engine*"])


def test_each_server_starts_once_although_its_tests_are_in_several_files(scripted_pytester):
    """The order is stable otherwise: within a server as collected, servers where their first is."""
    for name, sizes in (("a", (1, 2)), ("b", (2, 1)), ("c", (3, 1))):
        tests = "".join(
            f"@pytest.mark.scripted(pages={size})\ndef test_{place}(succeeds):\n"
            f"    succeeds.execute_script(script_of(succeeds))\n"
            for place, size in enumerate(sizes)
        )
        (scripted_pytester.path / f"test_{name}.py").write_text(
            "import pytest\n"
            "def script_of(session):\n    return succeeds_now\n"
            "def succeeds_now(t):\n    yield\n"
            "succeeds_now.__qualname__ = 'succeeds'\n"
            "@pytest.fixture\ndef succeeds(scripted_session):\n    return scripted_session\n"
            "def test_plain():\n    pass\n" + tests
        )
    result = scripted_pytester.run_in_subprocess("-v", "--scripted-backend", "fake")
    result.assert_outcomes(passed=9)
    assert scripted_pytester.starts() == [
        "fake {'pages': 1}",
        "fake {'pages': 2}",
        "fake {'pages': 3}",
    ]
    order = [line.split(" ")[0] for line in result.outlines if "PASSED" in line]
    assert order == [
        "test_a.py::test_plain",
        "test_a.py::test_0",
        "test_b.py::test_1",
        "test_c.py::test_1",
        "test_a.py::test_1",
        "test_b.py::test_0",
        "test_b.py::test_plain",
        "test_c.py::test_plain",
        "test_c.py::test_0",
    ]
