"""Scripts that an engine's known defect fails: strict xfails of exactly that failure."""

from __future__ import annotations

import pytest
from scripted_registry.ci import register_cpu_ci

pytest_plugins = ["pytester"]

register_cpu_ci(est_time=3, stage="unit", runner_config="cpu")

_SCRIPT = """
import pytest
from scripted_core.errors import EngineDied

@pytest.mark.scripted_known_defect(engine={engine!r}, releases={releases!r}, finding="finding.md",
                                   match={match!r})
def test_script(t):
    yield
    {body}
"""


def _run(scripted_pytester, *options, **chosen):
    given = {"engine": "local", "releases": "", "match": "gone", "body": "", **chosen}
    (scripted_pytester.path / "finding.md").write_text("seen\n")
    scripted_pytester.makepyfile(_SCRIPT.format(**given))
    return scripted_pytester.run_in_process("-rxX", *options)


@pytest.mark.parametrize(
    "body",
    ['raise EngineDied("the engine is gone")', 'assert False, "gone"', 'raise KeyError("gone")'],
)
def test_the_failure_that_is_described_is_an_xfail_that_names_the_page(scripted_pytester, body):
    result = _run(scripted_pytester, body=body)
    result.assert_outcomes(xfailed=1)
    result.stdout.fnmatch_lines(["XFAIL*known defect of local, see finding.md*"])
    assert result.ret == pytest.ExitCode.OK


def test_a_release_without_the_defect_turns_the_test_red(scripted_pytester):
    result = _run(scripted_pytester, body="pass")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*XPASS(strict)*finding.md*"])


def test_another_failure_is_a_failure(scripted_pytester):
    _run(scripted_pytester, body='assert False, "wrong"').assert_outcomes(failed=1)
    _run(scripted_pytester, body='raise EngineDied("dead")').assert_outcomes(errors=1)


@pytest.mark.parametrize(
    ("chosen", "applies"),
    [
        ({"releases": "==1"}, True),
        ({"releases": "<=1.5"}, True),
        ({"releases": ">1"}, False),
        ({"engine": "another"}, False),
    ],
)
def test_it_counts_on_the_releases_of_the_engine_that_are_named(scripted_pytester, chosen, applies):
    result = _run(scripted_pytester, body='assert False, "gone"', **chosen)
    result.assert_outcomes(**{"xfailed" if applies else "failed": 1})


@pytest.mark.parametrize(
    ("mark", "said"),
    [
        ("", "needs engine= as a text, not None"),
        ('"local"', "does not take 'local'"),
        ('engine="local", finding="finding.md"', "needs match= as a text, not None"),
        ('engine="local", finding="no.md", match="x"', "finding 'no.md', which is not in"),
        ('engine="local", finding="finding.md", match="("', "cannot read match='('"),
        (
            'engine="local", finding="finding.md", match="x", releases="old"',
            "cannot read releases='old'",
        ),
        ('engine="local", finding="finding.md", match="x", release="1"', "not take release"),
    ],
)
def test_a_mark_that_says_too_little_is_an_error_with_an_example(scripted_pytester, mark, said):
    (scripted_pytester.path / "finding.md").write_text("seen\n")
    scripted_pytester.makepyfile(
        f"""
        import pytest

        @pytest.mark.scripted_known_defect({mark})
        def test_script(t):
            yield
        """
    )
    result = scripted_pytester.run_in_process()
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(
        [f"*ConfigError*{said}*".replace("[", "[[]"), "*hint: for example*"]
    )
