"""The reference engine does what every call means, and with a fault the right row says so."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from scripted_core.cli import main
from scripted_core.conformance import (
    CHECKS,
    DEFAULT_ENGINE_KWARGS,
    Verdict,
    check_document,
    run_conformance,
)
from scripted_core.sessions.base import make_config
from scripted_reference.faults.catalogue import FAULTS
from scripted_registry.ci import register_cpu_ci

register_cpu_ci(est_time=30, stage="reference", runner_config="cpu")

_DOCS = Path(__file__).parents[4] / "docs" / "conformance.md"


def judged(backend="reference", *, only=None, **engine_kwargs):
    checks = [one for one in CHECKS if only is None or one.name in only]
    config = make_config(backend, {**DEFAULT_ENGINE_KWARGS, **engine_kwargs})
    return run_conformance(config, checks=checks)


def scripted(*arguments):
    with pytest.raises(SystemExit) as end:
        main(["conformance", *arguments])
    return end.value.code


@pytest.mark.parametrize("backend", ["reference", "reference:server"])
def test_the_document_has_the_table(backend):
    result = judged(backend)
    assert result.backend == backend
    assert check_document(_DOCS, result) == []
    assert not result.wrong


@pytest.mark.parametrize(
    "engine_kwargs",
    [
        {"disable_overlap_schedule": False},
        {"page_size": 16},
        {"page_size": 16, "disable_overlap_schedule": False},
        {"disable_radix_cache": True},
        {"chunked_prefill_size": 32},
    ],
    ids=str,
)
def test_no_row_is_wrong_in_another_configuration(engine_kwargs):
    result = judged(**engine_kwargs)
    assert not result.wrong
    assert ("results_one_iteration_late" in done(result)) is (
        engine_kwargs.get("disable_overlap_schedule") is False
    )


def done(result):
    return {row.check for row in result.rows if row.verdict is Verdict.DOES}


@pytest.mark.parametrize(
    ("row", "engine_kwargs"),
    [
        ("highest_priority_first", {"enable_priority_scheduling": True}),
        ("runs_on_its_replica", {"dp_size": 2}),
        ("logprobs_leave_the_output", {"model_path": "tiny"}),
    ],
)
def test_a_row_that_needs_more_is_done_by_an_engine_that_has_it(row, engine_kwargs):
    if engine_kwargs.get("model_path") == "tiny":
        pytest.importorskip("torch")
    assert done(judged(only=[row], **engine_kwargs)) == {row}
    assert done(judged(only=[row])) == set()


_OVERLAP = {"disable_overlap_schedule": False}
_TURNS_WRONG = [
    ("newest-request-first", "served_in_call_order", {}),
    ("one-token-too-many", "ends_by_length", {}),
    ("first-token-never-last", "ends_by_length", {}),
    ("stop-reported-as-length", "ends_at_a_stop_token", {}),
    ("priority-inverted", "highest_priority_first", {"enable_priority_scheduling": True}),
    ("dp-rank-ignored", "runs_on_its_replica", {"dp_size": 2}),
    ("stream-repeats-after-retraction", "no_token_lost_across_retractions", {}),
    ("retraction-loses-a-token", "retract_running", {}),
    ("retract-forgets-chunked", "retract_chunking", {}),
    ("retracted-request-lost", "retract_running", {}),
    ("decodes-while-paused-in-place", "in_place_running", {}),
    ("deferred-abort-lost", "in_place_defers_aborts", {}),
    ("results-dropped-at-continue", "continue_resumes", _OVERLAP),
    ("continue-drops-chunked", "in_place_chunking", {}),
    ("abort-matches-by-prefix", "abort_exactly_that_rid", {}),
    ("row-lost-on-abort", "abort_running", {}),
    ("aborted-request-stays-queued", "abort_waiting", {}),
    ("tokens-of-a-neighbour", "abort_leaves_others", _OVERLAP),
    ("flush-keeps-nodes", "flush_idle", {}),
    ("flush-while-requests-wait", "flush_while_waiting", {}),
    ("evicted-tokens-still-counted", "evict_all", {}),
    ("siblings-evicted", "evict_a_prefix", {}),
    ("hits-not-counted", "hits_are_counted", {}),
    ("lock-lost-on-abort", "abort_running", {}),
    ("held-page-handed-out", "exhaust_leaves_exactly", {}),
    ("one-row-too-many", "exhaust_rows", {}),
    ("decode-without-room", "exhaust_retracts", {}),
    ("parked-chunk-never-resumed", "exhaust_parks_a_chunk", {}),
    ("duplicates-leaked", "the_same_output", {}),
]


@pytest.mark.parametrize(("fault", "row", "engine_kwargs"), _TURNS_WRONG, ids=lambda one: str(one))
def test_a_fault_turns_the_row_wrong_that_it_is_about(fault, row, engine_kwargs):
    assert fault in FAULTS
    result = judged(only=[row], inject_fault=fault, **engine_kwargs)
    (judgement,) = result.rows
    assert judgement.verdict is Verdict.WRONG, f"{row} does not notice {fault}"
    assert judgement.seen
    assert done(judged(only=[row], **engine_kwargs)) == {row}


def test_a_damaged_engine_is_started_anew_for_the_next_row():
    result = judged(
        only=["abort_running", "abort_leaves_others", "statuses", "handles_show"],
        inject_fault="row-lost-on-abort",
    )
    verdicts = {row.check: row.verdict for row in result.rows}
    assert verdicts["abort_running"] is Verdict.WRONG
    assert verdicts["handles_show"] is Verdict.DOES


def test_the_command_says_what_was_seen(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")  # a narrow table breaks what is looked for
    arguments = ("--backend", "reference", "--only", "deferred")
    assert scripted(*arguments) == 2  # no call and no check has that
    assert "calls are yield, determinism" in capsys.readouterr().err
    fault = ("--engine-arg", "inject_fault=deferred-abort-lost")
    arguments = ("--backend", "reference", "--only", "in_place_defers_aborts", *fault)
    assert scripted(*arguments) == 1
    out = capsys.readouterr().out
    assert "the end of the request did not happen within 8 iterations" in out
    assert "2 meanings: 0 done, 0 skipped, 2 wrong" in out
    assert scripted(*arguments, "--json") == 1
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert [row["verdict"] for row in rows] == ["wrong", "wrong"]
    assert scripted(*arguments[:4], "--markdown") == 0
    assert "| does |" in capsys.readouterr().out


def test_a_document_is_written_and_checked(tmp_path, capsys):
    document = tmp_path / "table.md"
    run = ("--backend", "reference")
    assert scripted(*run, "--check", str(document)) == 2
    document.write_text("no place\n")
    assert scripted(*run, "--write", str(document)) == 2
    assert "<!-- conformance reference: begin -->" in capsys.readouterr().err
    begin, end = "<!-- conformance reference: begin -->", "<!-- conformance reference: end -->"
    document.write_text(f"before\n{begin}\n{end}\nafter\n")
    assert scripted(*run, "--check", str(document)) == 1
    assert scripted(*run, "--write", str(document)) == 0
    text = document.read_text()
    assert text.startswith(f"before\n{begin}\n\n{len(CHECKS)} meanings: ")
    assert text.endswith(f"{end}\nafter\n")
    assert scripted(*run, "--check", str(document)) == 0
    fault = ("--engine-arg", "inject_fault=hits-not-counted")
    assert scripted(*run, *fault, "--check", str(document)) == 1
    assert "the highest count was 0 and is 0" in capsys.readouterr().err
    assert scripted(*run, *fault, "--write", str(document)) == 1
    assert scripted(*run, *fault, "--check", str(document)) == 0


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("--json", "--markdown"), "exclude each other"),
        (("--only", "abort", "--check", "x.md"), "a document has every row"),
        (("--backend", "nobody"), "nobody"),
        (("--engine-arg", "page_size=0"), "page_size"),
        (("--write", "no/such/file.md"), "no/such/file.md"),
    ],
)
def test_a_mistake_is_a_message_and_a_hint(arguments, named, capsys):
    assert scripted(*arguments) == 2
    said = capsys.readouterr().err
    assert named in said
    assert "Traceback" not in said
