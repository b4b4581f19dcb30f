"""All kits against a sound server with the trained checkpoint (SGLang: --scripted-backend sglang)."""

from __future__ import annotations

import pytest
from scripted_kit_client import Api, Outcome, Target
from scripted_kit_hellaswag import HELLASWAG, HellaswagOptions
from scripted_kit_occupancy import OCCUPANCY, OccupancyOptions
from scripted_kit_sanity import PROBES, SANITY, SanityOptions
from scripted_registry.ci import register_cpu_ci

register_cpu_ci(est_time=20, stage="reference", runner_config="cpu")
register_cpu_ci(est_time=90, stage="single-sglang", runner_config="cpu")

_MAY_BE_SKIPPED = {"accept_length", "logprob_parity", "chat_completion"}


@pytest.fixture(scope="module")
def sound(start) -> Target:
    return start()


def test_sanity(sound):
    report = SANITY(sound, options=SanityOptions(pause_s=0.2))
    report.raise_for_outcome()
    assert [check.name for check in report.checks] == [probe.name for probe in PROBES]
    assert {one.name for one in report.with_outcome(Outcome.SKIPPED)} <= _MAY_BE_SKIPPED


def test_hellaswag(sound):
    report = HELLASWAG(sound, options=HellaswagOptions(limit=30))
    report.raise_for_outcome()
    assert report.figures["accuracy"] >= 0.97
    assert report.figures["rows"] == 30


def test_hellaswag_has_examples_in_front(sound):
    """The trained checkpoint has never seen several scenes in a row: what counts is who is asked."""
    report = HELLASWAG(sound, options=HellaswagOptions(limit=6, n_shot=2, floor=0))
    report.raise_for_outcome()
    assert report.figures["rows"] == 6


def test_occupancy(sound, engine_name):
    """Here only that it can be measured; `test_occupancy_floor` has the floor."""
    options = OccupancyOptions(threshold=10.0, max_new_tokens=400, scrape_interval_s=0.05)
    report = OCCUPANCY(sound, options=options)
    if engine_name == "sglang":
        assert report.outcome is Outcome.SKIPPED
        assert "device timer" in report.checks[0].message
        return
    report.raise_for_outcome()
    assert report.figures["samples"] >= 5
    assert report.figures["output_tokens"] == 400


def test_the_openai_routes_alone_are_enough(sound):
    target = Target(url=sound.url, api=Api.OPENAI)
    report = SANITY(target, options=SanityOptions(skip="answers,recall,pause_in_place,long_prompt"))
    report.raise_for_outcome()
    skipped = {one.name for one in report.with_outcome(Outcome.SKIPPED)}
    assert skipped <= _MAY_BE_SKIPPED | {"decode_is_prefill", "repetition"}
    HELLASWAG(target, options=HellaswagOptions(limit=12)).raise_for_outcome()
