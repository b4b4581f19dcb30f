"""Campaigns on the embedded engine: nothing on a sound one, and the fault on one that has a fault."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
from scripted_core.errors import ConfigError
from scripted_core.views import PauseMode
from scripted_explore import ProgramFailed, Sometimes, explore, workers
from scripted_explore.campaign import (
    Campaign,
    Outcome,
    Task,
    merged,
    run_task,
    shrink_finding,
    split,
)
from scripted_explore.command import Command
from scripted_explore.corpus import Corpus, program_of
from scripted_explore.digests import differing
from scripted_explore.draw import draw_program
from scripted_explore.executor_name import ExecutorName
from scripted_explore.executors import LocalExecutor
from scripted_explore.finding import Finding, Kind, Signature
from scripted_explore.laboratory import Laboratory, Run
from scripted_explore.live import LiveView
from scripted_explore.operations import EvictAll, Flush, Pause, Steps
from scripted_explore.program import Program
from scripted_explore.report import RunReport
from scripted_explore.space import topologies
from scripted_explore.written import write_test
from scripted_registry.ci import register_cpu_ci

register_cpu_ci(est_time=30, stage="explore", runner_config="cpu")

FAULT = "row-lost-on-retract"
PAUSE = Pause(PauseMode.IN_PLACE)


def test_a_sound_engine_is_explored_without_a_finding() -> None:
    outcome = explore(
        topologies=["single"],
        steps=3_000,
        seed=11,
        demand=[Sometimes.PARK, Sometimes.PREFIX_HIT, Sometimes.ABORT_DECODING, Sometimes.EVICTION],
    )
    assert outcome.report.steps >= 3_000
    assert len(outcome.report.transitions) > 200


@pytest.mark.parametrize("topology", ["swa", "pp", "pd", "dp", "ngram"])
def test_every_topology_can_be_explored(topology: str) -> None:
    outcome = explore(topologies=[topology], steps=400, seed=5)
    assert outcome.report.requests > 15


def test_what_speculates_is_explored_with_overlap_and_without() -> None:
    for name in ("ngram", "spec"):
        chosen = topologies("reference", [name])
        drawn = [draw_program(chosen, seed=0, number=number) for number in range(0, 120, 12)]
        assert {one.kwargs["disable_overlap_schedule"] for one in drawn} == {True, False}


class _Leaving(Laboratory):
    """Its engine is broken for good by an eviction; two flushes break any engine."""

    broken = False

    def run(self, program: Program, *, fresh: bool = False, digest: bool = False) -> Run:
        self.broken = self.broken and not fresh
        fails = self.broken or program.ops.count(Flush()) > 1
        self.broken = self.broken or EvictAll() in program.ops
        return Run(RunReport(), signature=Signature(Kind.RULE, "flush") if fails else None)


def test_what_earlier_candidates_leave_behind_does_not_keep_a_finding_large() -> None:
    (topology,) = topologies("reference", ["single"])
    ops = (EvictAll(), *[Steps(3)] * 9, *[Flush()] * 3)
    program = draw_program([topology], seed=0, number=0).with_ops(ops)
    with _Leaving("reference", (topology,)) as laboratory:
        signature = laboratory.run(program, fresh=True).signature
        assert signature is not None
        small = shrink_finding(laboratory, program, topology, signature, timeout_s=60.0)
        fixed = dataclasses.replace(topology, fixed=True)
        assert shrink_finding(laboratory, program, fixed, signature, timeout_s=60.0) == program
    assert small.ops == (Flush(), Flush())


def test_a_state_that_was_not_met_is_said() -> None:
    with pytest.raises(ProgramFailed, match=f"never met in .*{Sometimes.KV_LOST.value}"):
        explore(topologies=["single"], steps=100, demand=[Sometimes.KV_LOST])


# Noticed by the engine itself, an invariant, and rules about outputs, ends, pauses, order and the tree.
@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        (FAULT, ""),
        ("row-handed-out-twice", "invariant"),
        ("retraction-repeats-a-token", "rule: output"),
        ("decodes-while-paused-in-place", "rule: pause"),
        ("newest-request-first", "rule: order"),
        ("flush-keeps-nodes", "rule: flush"),
    ],
)
def test_a_seeded_fault_is_found_and_made_small(fault: str, kind: str) -> None:
    task = Task(
        backend="reference",
        topologies=("single",),
        kwargs={"inject_fault": fault},
        max_steps=60_000,
        stop_at_first=True,
        shrink_timeout_s=20,
    )
    (finding,) = run_task(task).findings
    assert str(finding.signature).startswith(kind)
    assert finding.reproduced
    assert finding.found is not None
    assert len(finding.program.ops) <= min(10, len(finding.found.ops))


def test_a_findings_file_runs_under_plain_pytest(finding: Finding, tmp_path: Path) -> None:
    path = write_test(finding, tmp_path)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(path)]
    failed = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert failed.returncode == 1, failed.stdout + failed.stderr
    # What is the engine's own error is an ERROR in pytest's words, and no failed expectation.
    assert "1 failed" in failed.stdout or "1 error" in failed.stdout
    assert finding.signature.what.split()[0] in failed.stdout
    path.write_text(path.read_text().replace(f", inject_fault={FAULT!r}", ""))
    mended = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert "1 passed" in mended.stdout, mended.stdout + mended.stderr


def test_programs_replay_byte_for_byte() -> None:
    done: list[int] = []
    wrong = differing("reference", topologies("reference"), seed=2, count=25, progress=done.append)
    assert not wrong
    assert done == list(range(1, 26))


def test_a_program_that_does_something_else_the_second_time_is_noticed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    drawn = iter(range(1_000))
    run = Laboratory.run

    def unsteady(self: Laboratory, program: Program, **how: Any) -> Run:
        # Every third run is one of another program.
        again = program.with_ops([*program.ops, PAUSE]) if next(drawn) % 3 == 2 else program
        return run(self, again, **how)

    monkeypatch.setattr(Laboratory, "run", unsteady)
    chosen = topologies("reference", ["single"])
    assert differing("reference", chosen, seed=2, count=3) == [1, 2]


def test_processes_find_the_same_thing_once() -> None:
    task = Task(
        backend="reference",
        topologies=("single",),
        kwargs={"inject_fault": "row-handed-out-twice"},
        max_programs=8,
        shrink_timeout_s=0,
    )
    outcomes = list(LocalExecutor().run(split(task, 2), progress=lambda *_: None))
    assert len(outcomes) == 2
    assert all(outcome.findings for outcome in outcomes)
    whole = merged(outcomes)
    assert len({finding.signature for finding in whole.findings}) == len(whole.findings)
    assert whole.programs == sum(outcome.programs for outcome in outcomes) == 8


def test_the_corpus_is_kept_and_replayed(tmp_path: Path) -> None:
    task = Task(backend="reference", topologies=("single",), max_programs=6, seed=9)
    command = Command(task, folder=tmp_path, jobs=1, executor=ExecutorName.LOCAL)
    assert command.explore(demand_all=False)
    kept = Corpus(tmp_path / "corpus", backend="reference").load(["single"])
    assert 0 < len(kept) <= 6
    again = Campaign(msgspec.structs.replace(task, corpus=kept, max_programs=len(kept))).run()
    assert again.programs == len(kept)
    assert not Corpus(tmp_path / "corpus", backend="reference").load(["pp"])


def test_a_finding_is_replayed_from_its_file(
    finding: Finding, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "finding.json"
    path.write_bytes(msgspec.json.encode(finding))
    command = Command(
        Task(backend="reference"), folder=tmp_path, jobs=1, executor=ExecutorName.LOCAL
    )
    assert not command.replay(str(path))
    assert str(finding.signature) in capsys.readouterr().out
    assert command.replay("3")
    assert "nothing found; events " in capsys.readouterr().out
    with pytest.raises(ConfigError, match="neither a file nor a number"):
        command.replay("nowhere.json")
    path.write_text("{}")
    with pytest.raises(ConfigError, match="neither a program nor a finding"):
        program_of(path)


def test_in_a_pipe_a_long_campaign_says_every_minute_how_it_goes(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = [1000.0]
    monkeypatch.setattr("scripted_explore.live.time", SimpleNamespace(monotonic=lambda: clock[0]))
    with LiveView(backend="reference", topologies=["single", "pp"]) as view:
        for after, said in ((59.0, 0), (2.0, 1), (30.0, 0), (30.0, 1)):
            clock[0] += after
            view.update(0, Outcome(report=RunReport(), programs=3))
            view.update(1, Outcome(report=RunReport(), programs=4))
            lines = capsys.readouterr()
            assert (lines.out, len(lines.err.splitlines())) == ("", said)
        assert lines.err.startswith("reference: single, pp: 0 iterations of 7 programs in 121 s")


@pytest.mark.parametrize(("send_s", "reports"), [(0.0, 15), (1.0, 1)])
def test_reports_of_a_worker_take_little_of_its_time(
    send_s: float, reports: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [1000.0]

    def found(outcome: Outcome) -> list[tuple[str, int]]:
        clock[0] += 0.25  # what each program takes
        return []

    class Pipe:
        sent = 0

        def send(self, told: tuple[bool, Outcome]) -> None:
            self.sent += 1
            clock[0] += send_s

    monkeypatch.setattr(workers, "_found", found)
    monkeypatch.setattr(workers, "time", SimpleNamespace(monotonic=lambda: clock[0]))
    pipe = Pipe()
    task = Task(backend="reference", topologies=("single",), seed=1, max_programs=30)
    workers._explore(task, pipe)  # type: ignore[arg-type]
    assert pipe.sent == reports + 1  # and the last, which is the outcome


def test_limits_are_asked_for() -> None:
    with pytest.raises(ConfigError, match="either steps or minutes"):
        explore()


@pytest.fixture(scope="module")
def finding() -> Finding:
    """What exploration makes of a seeded fault."""
    task = Task(
        backend="reference",
        topologies=("single",),
        kwargs={"inject_fault": FAULT},
        max_programs=120,
        stop_at_first=True,
        shrink_timeout_s=5,
    )
    (finding,) = run_task(task).findings
    return finding
