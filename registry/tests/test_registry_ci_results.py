from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from scripted_registry.ci import register_cpu_ci
from scripted_registry.ci.errors import ReportLogError, TimingsError
from scripted_registry.ci.junit import address, junit_xml
from scripted_registry.ci.record import record_logs
from scripted_registry.ci.results import Outcome, ReportLog, TestResult, merged, read_report_log
from scripted_registry.ci.timings import (
    SAMPLES_KEPT,
    SuiteTimings,
    TestTime,
    Timings,
    read_timings,
    write_timings,
)

register_cpu_ci(est_time=1, stage="unit", runner_config="cpu")

A = "tests/test_a.py::test_1"


def phases(nodeid: str, *, call: str = "passed", seconds: float = 1.0, **more: Any) -> list[Any]:
    """The three reports of a test."""
    return [
        {
            "$report_type": "TestReport",
            "nodeid": nodeid,
            "when": when,
            "outcome": call if when == "call" else "passed",
            "duration": seconds,
            **(more if when == "call" else {}),
        }
        for when in ("setup", "call", "teardown")
    ]


def log_of(tmp_path: Path, *lines: Any) -> ReportLog:
    path = tmp_path / "log.jsonl"
    path.write_text(
        "\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines)
    )
    return read_report_log(path)


def result_of(tmp_path: Path, *runs: list[Any]) -> TestResult:
    (result,) = merged([log_of(tmp_path, *lines) for lines in runs], selected=[A])
    return result


@pytest.mark.parametrize(
    ("lines", "outcome"),
    [
        (phases(A), Outcome.PASSED),
        (phases(A, call="failed"), Outcome.FAILED),
        (phases(A, call="skipped", longrepr=["a.py", 1, "why"]), Outcome.SKIPPED),
        (phases(A, call="skipped", wasxfail="why"), Outcome.XFAILED),
        (phases(A, wasxfail="why"), Outcome.XPASSED),
        # A broken fixture, and what scripted calls an error: a failure in another phase than the call.
        ([{**phases(A)[0], "outcome": "failed"}, phases(A)[2]], Outcome.ERROR),
        ([*phases(A)[:1], {**phases(A)[1], "when": "script", "outcome": "failed"}], Outcome.ERROR),
        # A subtest that failed, although the test itself went on to pass.
        (
            [{**phases(A, call="failed")[1], "$report_type": "SubTestReport"}, *phases(A)],
            Outcome.FAILED,
        ),
        # pytest was killed before, and in the middle of, the test.
        ([], Outcome.MISSING),
        (phases(A)[:1], Outcome.MISSING),
        (phases(A)[:2], Outcome.MISSING),
        # A plugin repeated it by itself.
        ([phases(A)[0], {**phases(A)[1], "outcome": "rerun"}, *phases(A)], Outcome.FLAKY),
    ],
)
def test_the_outcome_of_a_test(tmp_path: Path, lines: list[Any], outcome: Outcome) -> None:
    assert result_of(tmp_path, lines).outcome is outcome


def test_attempts_are_counted_and_none_is_hidden(tmp_path: Path) -> None:
    bad, good = phases(A, call="failed"), phases(A)
    flaky = result_of(tmp_path, bad, bad, good)
    assert (flaky.outcome, flaky.failures, flaky.times) == (Outcome.FLAKY, 2, 3)
    assert flaky.flake_rate == pytest.approx(2 / 3)
    assert result_of(tmp_path, bad, bad).outcome is Outcome.FAILED
    assert result_of(tmp_path, good).flake_rate == 0
    rerun = result_of(tmp_path, [{**bad[1], "outcome": "rerun"}, *good])
    assert (rerun.failures, rerun.times) == (1, 2)
    # A test that was not selected and ran all the same is kept.
    log = log_of(tmp_path, *phases(A), *phases("b.py::test_2", call="failed"))
    assert [result.nodeid for result in merged([log], selected=[A])] == [A, "b.py::test_2"]


def test_times_are_without_the_start_of_the_engine(tmp_path: Path) -> None:
    properties = [["scripted_engine_group", "e-1"], ["scripted_engine_start_s", "2.5"]]
    log = log_of(tmp_path, *phases(A, user_properties=properties))
    assert log.attempts[A].as_time() == TestTime(nodeid=A, seconds=0.5, group="e-1", start_s=2.5)


def test_a_log_that_was_cut_off_is_read_and_one_that_is_none_is_refused(tmp_path: Path) -> None:
    assert log_of(tmp_path, *phases(A), '{"$report_type": "Test').attempts[A].torn_down
    with pytest.raises(ReportLogError, match=r"log\.jsonl:1: no line of a report log") as caught:
        log_of(tmp_path, "<testsuites>", *phases(A))
    assert caught.value.hint is not None
    with pytest.raises(ReportLogError, match="cannot be read"):
        read_report_log(tmp_path / "absent.jsonl")
    (tmp_path / "bytes").write_bytes(b"\xff\xfe")
    with pytest.raises(ReportLogError, match="cannot be read"):
        read_report_log(tmp_path / "bytes")


def test_junit_has_what_xml_can_hold(tmp_path: Path) -> None:
    nodeid = "tests/sub/test_a.py::TestX::test_1[a/b\x1b::c]"
    crash = {"reprcrash": {"message": "bad \x00 byte\nmore", "path": "x", "lineno": 1}}
    lines = phases(nodeid, call="failed", longrepr=crash, sections=[["Captured stdout", "\x07 hi"]])
    results = merged([log_of(tmp_path, *lines)], selected=[nodeid])
    root = ElementTree.fromstring(junit_xml(results, suite="s", wall_s=3))
    (case,) = root.iter("testcase")
    assert case.get("classname") == "tests.sub.test_a.TestX"
    assert case.get("name") == "test_1[a/b\\x1b::c]"
    (failure,) = case
    assert failure.get("message") == "bad \\x00 byte"
    assert failure.text is not None
    assert "\\x07 hi" in failure.text
    assert address("t.py::test_1") == ("t", "test_1")


def test_the_median_of_the_last_samples_counts() -> None:
    suite = SuiteTimings()
    for seconds in [100.0] * 20 + [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0]:
        suite.add([TestTime(nodeid=A, seconds=seconds)])
    assert suite.test_s(A) == 4.0
    assert len(suite.tests["tests/test_a.py"][""]["test_1"]) == SAMPLES_KEPT
    assert suite.test_s("tests/test_a.py::test_2") is None


def test_a_start_that_was_never_measured_is_like_the_others() -> None:
    suite = SuiteTimings()
    assert suite.start_s("g") == 0.0
    for group, start in (("a", 1.0), ("b", 3.0), ("c", 8.0)):
        suite.add([TestTime(nodeid=A, seconds=1, group=group, start_s=start)])
    assert suite.start_s("b") == 3.0
    assert suite.start_s("unknown") == 3.0
    # The test is where it ran last, with all its samples.
    assert suite.tests == {"tests/test_a.py": {"c": {"test_1": [1.0, 1.0, 1.0]}}}


def test_timings_are_written_as_they_are_read(tmp_path: Path) -> None:
    timings = Timings()
    times = [
        TestTime(nodeid="tests/test_é.py::test[\N{SNOWMAN} 1]", seconds=0.00001),
        TestTime(nodeid=A, seconds=1.23456, group="g", start_s=3),
    ]
    timings.suite("s").add(times)
    path = tmp_path / "ci" / "timings.json"
    write_timings(path, timings)
    text = path.read_text()
    assert read_timings(path).as_json() == text
    assert read_timings(path).suite("s").test_s(A) == 1.235
    assert '"test_1": [1.235]' in text, "a test is a line, so that a change can be read"
    assert [one.name for one in path.parent.iterdir()] == ["timings.json"]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        '{"version": 2, "suites": {}}',
        '{"version": 1}',
        '{"version": 1, "suites": {"s": {"starts": {}, "tests": {"f": {"": {"t": []}}}}}}',
        '{"version": 1, "suites": {"s": {"starts": {"g": ["x"]}, "tests": {}}}}',
        '{"version": 1, "suites": {"s": {"starts": {"g": [NaN]}, "tests": {}}}}',
    ],
)
def test_timings_that_cannot_be_used_are_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "timings.json"
    path.write_text(text)
    with pytest.raises(TimingsError, match=r"timings\.json cannot be used") as caught:
        read_timings(path)
    assert caught.value.hint is not None


def test_recording_leaves_out_what_failed_and_files_that_are_gone(tmp_path: Path) -> None:
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests/test_a.py").touch()
    path = tmp_path / "ci/timings.json"
    bad = "tests/test_a.py::test_bad"
    log = log_of(tmp_path, *phases(A), *phases(bad, call="failed"), *phases("gone.py::test_1"))
    assert record_logs(path, suite="s", logs=[log, log]) == 4
    suite = read_timings(path).suite("s")
    assert suite.tests == {"tests/test_a.py": {"": {"test_1": [3.0, 3.0]}}}
