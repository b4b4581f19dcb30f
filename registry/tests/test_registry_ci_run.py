from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import time
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from scripted_registry.ci import cli, register_cpu_ci

register_cpu_ci(est_time=55, stage="unit", runner_config="cpu")

SIX = """
    import os, pathlib, pytest

    @pytest.mark.parametrize("n", range(6))
    def test_many(n):
        assert os.environ["TOY"] == "1"
        with open("ran.txt", "a") as file:
            print(n, file=file)
"""
FLAKY = """
    import pathlib

    def test_flaky():
        here = pathlib.Path("seen.txt")
        times = len(here.read_text()) if here.exists() else 0
        here.write_text("x" * (times + 1))
        assert times >= {passes_at}, "not yet"

    def test_steady():
        with open("steady.txt", "a") as file:
            file.write("x")
"""


def ran(repository: Any) -> list[str]:
    path = repository.root / "ran.txt"
    text: list[str] = path.read_text().split() if path.exists() else []
    path.unlink(missing_ok=True)
    return text


def test_shards_run_every_test_once_and_leave_results(repository: Any, tmp_path: Path) -> None:
    repository.add_tests("test_six.py", SIX)
    repository.registered()
    summary = tmp_path / "summary.md"
    seen = []
    for shard in ("1/2", "2/2"):
        done = repository.run(
            *("run", "--stage", "toy", "--shard", shard, "--output", "results"),
            GITHUB_STEP_SUMMARY=str(summary),
        )
        assert done.returncode == 0, done.stdout + done.stderr
        assert f"toy on cpu, shard {shard}: passed: 3 passed" in done.stdout
        seen.append(ran(repository))
    assert sorted(seen[0] + seen[1]) == list("012345")
    assert len(seen[0]) == 3
    folder = repository.root / "results"
    cases = ElementTree.parse(folder / "toy-test-cpu-1-of-2.xml").findall(".//testcase")
    assert {case.get("classname") for case in cases} == {"tests.test_six"}
    assert sorted(case.get("name") or "" for case in cases) == [f"test_many[{n}]" for n in seen[0]]
    log = (folder / "toy-test-cpu-1-of-2.jsonl").read_text().splitlines()
    assert sum(json.loads(line).get("when") == "call" for line in log) == 3
    assert summary.read_text().count("### toy on cpu, shard") == 2
    assert (folder / "toy-test-cpu-2-of-2.md").read_text() in summary.read_text()
    # What was measured is remembered, and from then on divides.
    logs = [str(path) for path in sorted(folder.glob("*.jsonl"))]
    done = repository.run("record", "--stage", "toy", *logs)
    assert done.stdout == "ci/timings.json: 6 tests of toy on cpu\n"
    data = json.loads((repository.root / "ci/timings.json").read_text())
    tests = data["suites"]["toy-test-cpu"]["tests"]["tests/test_six.py"][""]
    assert sorted(tests) == [f"test_many[{n}]" for n in range(6)]
    done = repository.run("run", "--stage", "toy", "--dry-run", "--shard", "1/3")
    assert "of 6 tests, expected" in done.stdout
    assert len(re.findall(r" s  tests/test_six.py::", done.stdout)) < 6
    assert ran(repository) == []


def test_a_failure_is_told_once_and_nothing_is_retried(repository: Any) -> None:
    repository.add_tests("test_flaky.py", FLAKY.format(passes_at=1))
    repository.registered()
    done = repository.run("run", "--stage", "toy", "--output", "results")
    assert done.returncode == 1
    assert "toy on cpu, shard 1/1: failed: 1 passed, 1 failed" in done.stdout
    assert "failed: tests/test_flaky.py::test_flaky: AssertionError: not yet" in done.stdout
    assert (repository.root / "seen.txt").read_text() == "x"
    xml = ElementTree.parse(repository.root / "results/toy-test-cpu-1-of-1.xml")
    assert [one.get("message") for one in xml.findall(".//failure")] == ["AssertionError: not yet"]
    assert "#### Failed" in (repository.root / "results/toy-test-cpu-1-of-1.md").read_text()


def test_a_pass_after_retries_is_flaky_with_its_rate(repository: Any, tmp_path: Path) -> None:
    repository.add_tests("test_flaky.py", FLAKY.format(passes_at=2))
    repository.registered()
    arguments = ("run", "--stage", "toy", "--retries", "5", "--output", "results")
    summary = tmp_path / "summary.md"
    done = repository.run(*arguments, GITHUB_STEP_SUMMARY=str(summary))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "passed: 1 passed, 1 flaky" in done.stdout
    assert "flaky: tests/test_flaky.py::test_flaky: failed 2 of 3 times (67%)" in done.stdout
    assert (repository.root / "steady.txt").read_text() == "x", "only what failed runs again"
    assert "#### Flaky" in summary.read_text()
    assert "2 of 3 times (67%)" in summary.read_text()
    folder = repository.root / "results"
    xml = ElementTree.parse(folder / "toy-test-cpu-1-of-1.xml")
    assert len(xml.findall(".//flakyFailure")) == 2
    assert xml.findall(".//failure") == []
    (rate,) = xml.findall(".//property[@name='flake_rate']")
    assert rate.get("value") == "0.667"
    assert sorted(path.name for path in folder.glob("*.jsonl")) == [
        "toy-test-cpu-1-of-1.jsonl",
        "toy-test-cpu-1-of-1.retry-1.jsonl",
        "toy-test-cpu-1-of-1.retry-2.jsonl",
    ]


def test_a_test_that_kills_its_process_is_missing_and_so_are_the_others(repository: Any) -> None:
    repository.add_tests(
        "test_kill.py",
        """
        import os

        def test_1(): pass
        def test_2(): os._exit(0)
        def test_3(): pass
        """,
    )
    repository.registered()
    done = repository.run("run", "--stage", "toy", "--output", "results")
    assert done.returncode == 1, done.stdout
    assert "failed: 1 passed, 2 missing" in done.stdout
    assert "missing: tests/test_kill.py::test_2: no result: pytest ended while" in done.stdout
    assert "missing: tests/test_kill.py::test_3: no result: pytest ended before" in done.stdout
    xml = ElementTree.parse(repository.root / "results/toy-test-cpu-1-of-1.xml")
    assert len(xml.findall(".//error")) == 2


def test_a_file_that_cannot_be_collected_fails_the_run(repository: Any) -> None:
    repository.add_tests("test_bad.py", "raise RuntimeError('at import')\n")
    repository.registered()
    done = repository.run("run", "--stage", "toy")
    assert done.returncode == 1
    assert "1 not collected" in done.stdout
    assert "not collected: tests/test_bad.py: E   RuntimeError: at import" in done.stdout


@pytest.mark.parametrize("ending", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_it_tells_what_there_is_and_leaves_no_process(
    repository: Any, ending: signal.Signals
) -> None:
    repository.add_tests(
        "test_long.py",
        """
        import os, pathlib, subprocess, time

        def test_quick(): pass

        def test_long():
            pathlib.Path("pid.txt").write_text(str(os.getpid()))
            try:
                time.sleep(300)
            finally:
                pathlib.Path("cleaned.txt").touch()
        """,
    )
    repository.registered()
    process = subprocess.Popen(
        repository.command("run", "--stage", "toy", "--output", "results"),
        cwd=repository.root,
        env=repository.environ(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    pid_file = repository.root / "pid.txt"
    deadline = time.monotonic() + 60
    while not (pid_file.exists() and pid_file.read_text()):
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(ending)
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 130, out
    assert "shard 1/1: interrupted: 1 passed" in out
    assert "Traceback" not in out
    assert (repository.root / "cleaned.txt").exists(), "pytest had the time to clean up"
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid_file.read_text()), 0)
    cases = ElementTree.parse(repository.root / "results/toy-test-cpu-1-of-1.xml")
    names = {case.get("name"): len(case) for case in cases.findall(".//testcase")}
    assert names["test_quick"] == 0
    assert names["test_long"] == 1


def test_a_pytest_that_a_test_starts_is_no_shard(repository: Any) -> None:
    repository.write("inner/test_inner.py", "def test_in(): pass\ndef test_in_2(): pass\n")
    repository.add_tests(
        "test_outer.py",
        """
        import os, subprocess, sys

        def test_outer():
            assert "SCRIPTED_CI_REQUEST" not in os.environ
            assert os.environ["PYTEST_ADDOPTS"] == "-q"
            command = [sys.executable, "-m", "pytest", "inner"]
            done = subprocess.run(command, capture_output=True, text=True)
            assert "2 passed" in done.stdout, done.stdout
        """,
    )
    repository.registered()
    done = repository.run("run", "--stage", "toy", PYTEST_ADDOPTS="-q")
    assert done.returncode == 0, done.stdout
    assert "passed: 1 passed" in done.stdout


def test_workers_of_xdist_divide_alike(repository: Any) -> None:
    pytest.importorskip("xdist", reason="needs pytest-xdist")
    repository.add_tests("test_six.py", SIX)
    repository.registered()
    workers = ("-p", "xdist", "-n", "2")
    done = repository.run("run", "--stage", "toy", "--shard", "2/2", "--", *workers)
    assert done.returncode == 0, done.stdout
    assert "shard 2/2: passed: 3 passed" in done.stdout
    assert len(ran(repository)) == 3


def test_nightly_tests_are_a_run_of_their_own_and_disabled_ones_none(repository: Any) -> None:
    repository.add_tests("test_day.py", "def test_day(): pass\n")
    repository.add_tests("test_night.py", "def test_night(): pass\n", more=", nightly=True")
    repository.add_tests("test_off.py", "def test_off(): assert 0\n", more=', disabled="broken"')
    repository.registered()
    day = repository.run("run", "--stage", "toy", "--dry-run")
    assert "test_day" in day.stdout
    assert "1 of 1 tests" in day.stdout
    night = repository.run("run", "--stage", "toy", "--dry-run", "--nightly")
    assert "test_night" in night.stdout
    assert "1 of 1 tests" in night.stdout


def test_more_shards_than_tests_is_no_failure(repository: Any) -> None:
    repository.add_tests("test_one.py", "def test_1(): pass\n")
    repository.registered()
    done = repository.run("run", "--stage", "toy", "--shard", "2/2")
    assert done.returncode == 0, done.stdout
    assert "this shard is empty" in done.stdout


def test_a_stage_without_tests_is_its_command(repository: Any) -> None:
    repository.registered()
    done = repository.run("run", "--stage", "job")
    assert done.returncode == 0
    assert ran(repository) == ["ran"]
    done = repository.run("run", "--stage", "job", "--shard", "1/2")
    assert done.returncode == 2
    assert "cannot be divided" in done.stderr


MISTAKES = [
    (["--stage", "tyo"], "did you mean 'toy'?"),
    (["--stage", "toy", "--runner", "cup"], "did you mean 'cpu'?"),
    (["--stage", "toy", "--shard", "3/2"], "counted from 1: --shard 1/2 to 2/2"),
    (["--stage", "toy", "--shard", "0/2"], "there is no shard 0 of 2"),
    (["--stage", "toy", "--shard", "1/0"], "there are no 0 shards"),
    (["--stage", "toy", "--shard", "two"], "'two' is no shard"),
    (["--stage", "toy", "--shard", "1/99999"], "99999 shards are too many"),
    (["--stage", "toy", "--output", "pyproject.toml"], "--output pyproject.toml: "),
    (["--stage", "toy", "--retries", "-1"], "--retries -1 is no number of retries"),
    (["--stage", "toy", "--shard", "1/2", "--record"], "would change how the other shards"),
    (["--stage", "toy", "--nightly"], "no test file is registered for a nightly run"),
    (["--stage", "unit"], "no test file is registered for a by-day run"),
]


def test_mistakes_are_messages_that_say_what_to_do(
    repository: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    repository.add_tests("test_a.py", "def test_1(): pass\n")
    repository.registered()
    monkeypatch.chdir(repository.root)
    for arguments, said in MISTAKES:
        with pytest.raises(SystemExit) as caught:
            cli.main(["run", *arguments])
        assert caught.value.code == 2, arguments
        out, err = capsys.readouterr()
        assert said in err, arguments
        assert "hint: " in err, arguments
        assert out == ""


def test_a_log_of_other_tests_and_broken_timings_are_refused(repository: Any) -> None:
    repository.add_tests("test_a.py", "def test_1(): pass\n")
    repository.registered()
    report = {"nodeid": "tests/test_z.py::test_1", "when": "teardown", "outcome": "passed"}
    repository.write("tests/test_z.py", "def test_1(): pass\n")
    repository.write("other.jsonl", json.dumps(report | {"duration": 1.0}))
    done = repository.run("record", "--stage", "toy", "other.jsonl")
    assert done.returncode == 2
    assert "nobody registered tests/test_z.py for it" in done.stderr
    assert not (repository.root / "ci/timings.json").exists()
    repository.write("ci/timings.json", "{")
    done = repository.run("run", "--stage", "toy")
    assert done.returncode == 2
    assert "timings.json cannot be used" in done.stderr
    assert "Traceback" not in done.stdout + done.stderr


def test_a_summary_that_cannot_be_written_does_not_change_the_verdict(repository: Any) -> None:
    repository.add_tests("test_a.py", "def test_1(): pass\n")
    repository.registered()
    done = repository.run("run", "--stage", "toy", GITHUB_STEP_SUMMARY="/no/such/folder/summary")
    assert done.returncode == 0
    assert "GITHUB_STEP_SUMMARY: /no/such/folder/summary cannot be written" in done.stderr


def test_a_manifest_that_a_merge_broke_is_refused(repository: Any) -> None:
    repository.registered()
    path = repository.root / "ci/manifest.json"
    data = repository.manifest()
    for broken in ({**data, "stages": data["stages"] * 2}, {**data, "version": 0}, [], {}):
        path.write_text(json.dumps(broken))
        done = repository.run("run", "--stage", "toy")
        assert done.returncode == 2
        assert "manifest.json cannot be used" in done.stderr
        assert "Traceback" not in done.stderr


def test_without_a_manifest_it_says_how_to_write_one(repository: Any) -> None:
    done = repository.run("run", "--stage", "toy")
    assert done.returncode == 2
    assert "there is no" in done.stderr
    assert "python -m scripted_registry register" in done.stderr
