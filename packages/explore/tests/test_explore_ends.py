"""What is found is kept however a campaign ends, and nothing of one is left running."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from scripted_core.errors import ConfigError, PluginNotFound
from scripted_core.sessions.processes import descendants, still_running
from scripted_explore.campaign import Campaign, Outcome, Task, found_by, split
from scripted_explore.command import Command
from scripted_explore.corpus import Corpus, program_of
from scripted_explore.draw import draw_program
from scripted_explore.errors import WorkerDied
from scripted_explore.executor_name import ExecutorName
from scripted_explore.finding import Finding
from scripted_explore.space import topologies
from scripted_explore.workers import run_in_processes
from scripted_registry.ci import register_cpu_ci

register_cpu_ci(est_time=40, stage="unit", runner_config="cpu")

_FAULT = {"inject_fault": "row-lost-on-retract"}
_TASK = Task(backend="reference", topologies=("single",), kwargs=_FAULT, shrink_timeout_s=0)
_MAIN = "import sys; from scripted_core.cli import main; sys.exit(main())"
_TIMEOUT_S = 120.0


def _command(task: Task, folder: Path) -> Command:
    return Command(task, folder=folder, jobs=1, executor=ExecutorName.LOCAL)


@contextlib.contextmanager
def _campaign(folder: Path, *args: str) -> Iterator[subprocess.Popen[str]]:
    """`scripted explore` for minutes on an engine with a fault, once it has written what it found."""
    words = ["--minutes", "30", "--topology", "single", "--folder", str(folder), *args]
    fault = [f"{name}={value}" for name, value in _FAULT.items()]
    process = subprocess.Popen(
        [sys.executable, "-c", _MAIN, "explore", *words, "--engine-arg", *fault],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        end = time.monotonic() + _TIMEOUT_S
        while not list((folder / "findings").glob("*.json")):
            assert process.poll() is None, process.stdout and process.stdout.read()
            assert time.monotonic() < end, "nothing was found"
            time.sleep(0.05)  # a file of another process: nothing to wait on
        yield process
    finally:
        process.kill()
        process.communicate()


def _wait_for_end_of(orphans: list[int]) -> None:
    """Python's own tracker of resources ends a moment after the last process that it tracks for."""
    end = time.monotonic() + _TIMEOUT_S
    while left := still_running(orphans):
        assert time.monotonic() < end, left
        time.sleep(0.05)  # nobody here is told of their end


@pytest.mark.parametrize(
    ("jobs", "number", "status"), [("1", signal.SIGINT, 130), ("2", signal.SIGTERM, 143)]
)
def test_a_signal_to_one_process_ends_all_and_keeps_what_was_found(
    jobs: str, number: int, status: int, tmp_path: Path
) -> None:
    # Shrinking would go on for as long as the campaign: what is kept was not made small yet.
    with _campaign(tmp_path, "--jobs", jobs, "--shrink-seconds", "1000") as process:
        workers = list(descendants(process.pid))
        process.send_signal(number)
        said, _ = process.communicate(timeout=_TIMEOUT_S)
    assert process.returncode == status, said
    assert "Traceback" not in said
    _wait_for_end_of(workers)
    findings = [path.read_bytes() for path in (tmp_path / "findings").glob("*.json")]
    assert msgspec.json.decode(findings[0], type=Finding).reproduced
    assert Corpus(tmp_path / "corpus", backend="reference").load(["single"])


def test_workers_end_with_a_parent_that_is_killed(tmp_path: Path) -> None:
    with _campaign(tmp_path, "--jobs", "2", "--shrink-seconds", "0") as process:
        workers = list(descendants(process.pid))
        assert len(workers) >= 2
        process.kill()
        process.wait()
        _wait_for_end_of(workers)


def test_a_worker_that_is_killed_is_named_and_the_others_go_on() -> None:
    killed: list[int] = []

    def kill_first(place: int, outcome: Outcome) -> None:
        if place == 0 and not killed:
            (worker,) = [
                one for one in multiprocessing.active_children() if one.name.endswith("worker 0")
            ]
            assert worker.pid is not None
            killed.append(worker.pid)
            os.kill(worker.pid, signal.SIGKILL)

    task = msgspec.structs.replace(_TASK, max_programs=8)
    outcomes: list[Outcome] = []
    with pytest.raises(WorkerDied) as error:
        outcomes.extend(run_in_processes(split(task, 2), progress=kill_first))
    assert f"{killed[0]} (SIGKILL)" in str(error.value)
    (other,) = outcomes
    assert other.programs == 4
    assert multiprocessing.active_children() == []


def test_what_a_worker_raises_is_raised_here() -> None:
    task = msgspec.structs.replace(_TASK, kwargs={"no_such_argument": 1}, max_programs=2)
    with pytest.raises(ConfigError, match="no_such_argument"):
        list(run_in_processes(split(task, 2), progress=lambda *_: None))
    assert multiprocessing.active_children() == []


@pytest.mark.parametrize("backend", ["nosuch", "nosuch:server"])
def test_an_unknown_engine_is_refused_before_anything_is_run(backend: str, tmp_path: Path) -> None:
    with pytest.raises(PluginNotFound, match="nosuch"):
        _command(Task(backend=backend, max_steps=10), tmp_path / "folder")
    assert not (tmp_path / "folder").exists()
    with pytest.raises(PluginNotFound, match="nosuch"):
        Campaign(Task(backend=backend, max_programs=1)).run()


def test_an_empty_backend_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--backend is empty"):
        _command(Task(backend=""), tmp_path)


def test_a_folder_that_cannot_be_written_is_refused_at_once(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=r"findings cannot be written to .*file") as error:
        _command(_TASK, tmp_path / "file").explore(demand_all=False)
    assert "--folder" in str(error.value.hint)


def test_the_limits_hold_for_the_corpus(tmp_path: Path) -> None:
    chosen = topologies("reference", ("single",))
    corpus = tuple(draw_program(chosen, seed=3, number=number) for number in range(6))
    task = Task(backend="reference", topologies=("single",), corpus=corpus)
    assert Campaign(msgspec.structs.replace(task, max_programs=2)).run().programs == 2
    assert Campaign(msgspec.structs.replace(task, max_steps=1)).run().programs == 1


def test_what_is_no_program_in_a_corpus_is_named(tmp_path: Path) -> None:
    (tmp_path / "reference" / "x.json").mkdir(parents=True)
    with pytest.raises(ConfigError, match=r"x\.json is no program"):
        Corpus(tmp_path, backend="reference").load(["single"])


def _program(**fields: Any) -> dict[str, Any]:
    start = {"type": "Start", "family": 0, "shared": 4, "own": 0, "own_tokens": 4, "new_tokens": 2}
    return {"topology": "single", "kwargs": {}, "ops": [{**start, **fields}]}


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"own_tokens": -5}, "ops"),
        ({"own_tokens": 10**18}, "ops"),
        ({"family": -7}, "ops"),
        ({"type": "Nonsense"}, "Nonsense"),
    ],
)
@pytest.mark.parametrize("is_finding", [False, True])
def test_a_program_with_nonsense_in_it_is_refused_by_what_is_wrong(
    fields: dict[str, Any], says: str, is_finding: bool, tmp_path: Path
) -> None:
    path = tmp_path / "it.json"
    program = _program(**fields)
    signature = {"kind": "rule", "what": "x"}
    finding = {"backend": "reference", "program": program, "signature": signature, "text": ""}
    path.write_bytes(msgspec.json.encode(finding if is_finding else program))
    with pytest.raises(ConfigError, match=says) as error:
        program_of(path)
    assert "topology" not in str(error.value)
    path.write_bytes(msgspec.json.encode(_program()))
    assert program_of(path)[0].topology == "single"


def test_a_finding_says_what_runs_it_again() -> None:
    task = msgspec.structs.replace(_TASK, seed=7)
    assert found_by(task, 12) == (
        "`scripted explore --backend reference --topology single --engine-arg "
        "inject_fault=row-lost-on-retract --seed 7 --replay 12`"
    )
    assert found_by(task, None).endswith("--seed 7`, a program of its corpus")
