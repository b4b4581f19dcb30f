"""Recorded scripts of the fake engine."""

from __future__ import annotations

import pytest
from scripted_core.errors import ConfigError
from scripted_core.testing import ScriptRecording, record_script, replay
from scripted_registry.ci import register_cpu_ci

register_cpu_ci(est_time=1, stage="unit", runner_config="cpu")


def two_requests(t, tokens):
    handles = [
        t.start_req(prompt_len=20, seed=n, max_new_tokens=tokens, ignore_eos=True) for n in range(2)
    ]
    while not all(r.finished for r in handles):
        yield


def fails(t):
    yield
    raise ValueError("not today")


def never_ends(t):
    while True:
        yield


def test_a_recording_is_the_same_every_time_and_survives_a_file(make_engine, tmp_path):
    first, second = (record_script(make_engine(), two_requests, args=(3,)) for _ in range(2))
    assert first == second
    assert (first.script, first.engine, first.passed) == ("two_requests", "fake", True)
    assert len(first.digest) == 32
    first.save(tmp_path / "run.json")
    assert ScriptRecording.load(tmp_path / "run.json") == first
    assert record_script(make_engine(), two_requests, args=(4,)) != first


def test_a_replay_tells_of_every_iteration(make_engine):
    recording = record_script(make_engine(), two_requests, args=(3,))
    seen = []
    replay(recording, on_step=seen.append)
    assert seen == list(recording.steps)
    assert [step.step for step in seen] == list(range(1, len(seen) + 1))


def test_a_failed_script_is_recorded_up_to_its_failure(make_engine):
    recording = record_script(make_engine(), fails)
    assert not recording.passed
    assert recording.error == "ValueError: not today"
    assert len(recording.steps) == 1


def test_a_script_without_an_end_is_no_recording(make_engine):
    engine = make_engine()
    with pytest.raises(ConfigError, match="never_ends did not end within 5000 iterations"):
        record_script(engine, never_ends)
    assert record_script(engine, two_requests, args=(1,)).passed


@pytest.mark.parametrize(
    "text", ["", "{}", '{"script": "a", "engine": "b", "steps": [], "format": 9}']
)
def test_a_file_that_is_none_is_refused_by_name(tmp_path, text):
    file = tmp_path / "run.json"
    with pytest.raises(ConfigError, match=r"run\.json"):
        ScriptRecording.load(file)
    file.write_text(text)
    with pytest.raises(ConfigError, match=r"run\.json"):
        ScriptRecording.load(file)
