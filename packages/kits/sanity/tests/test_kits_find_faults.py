"""A server that is wrong on purpose makes the kit fail that is about it, and no other."""

from __future__ import annotations

import pytest
from scripted_kit_client import Outcome, Target
from scripted_kit_hellaswag import HELLASWAG, HellaswagOptions
from scripted_kit_occupancy import OCCUPANCY, OccupancyOptions
from scripted_kit_sanity import SANITY, SanityOptions
from scripted_registry.ci import register_cpu_ci

register_cpu_ci(est_time=40, stage="reference", runner_config="cpu")

pytestmark = pytest.mark.usefixtures("seeded_faults")

_FEW = {"pause_s": 0.1, "concurrency": 4, "long_prompt_words": 120, "max_new_tokens": 32}
_KITS = {
    "sanity": (SANITY, SanityOptions(skip="recall,answers", **_FEW)),
    "hellaswag": (HELLASWAG, HellaswagOptions(limit=12)),
    # Between what a sound server was measured at over so few tokens, 90, and one that stalls, 69.
    "occupancy": (
        OCCUPANCY,
        OccupancyOptions(threshold=82.0, max_new_tokens=400, scrape_interval_s=0.05),
    ),
}
_FAULTS = {
    "stall-every-iteration": ("occupancy", {"median"}, "floor 82.00 %"),
    "kv-slot-corrupted": (
        "sanity",
        {"decode_is_prefill", "determinism", "shared_prefix", "stop_string"},
        "in the decode and",
    ),
    "batch-replies-shuffled": ("hellaswag", {"accuracy"}, "right is"),
    "stream-chunk-dropped": ("sanity", {"streaming_completions"}, "without a stream it is"),
}


def _failed(target: Target) -> dict[str, dict[str, str]]:
    """The messages of the failed checks, by kit."""
    found = {}
    for name, (kit, options) in _KITS.items():
        report = kit(target, options=options)
        assert report.error is None
        failed = report.with_outcome(Outcome.FAILED)
        if failed:
            found[name] = {check.name: check.message for check in failed}
    return found


def test_a_sound_server_makes_none_fail(start):
    assert _failed(start()) == {}


@pytest.mark.parametrize("fault", _FAULTS)
def test_a_fault_makes_its_kit_fail(start, fault):
    kit, checks, said = _FAULTS[fault]
    found = _failed(start("--inject-fault", fault))
    assert found.keys() == {kit}, found
    assert found[kit].keys() <= checks
    assert any(said in message for message in found[kit].values()), found


_SPECULATION = (
    *("--speculative-algorithm", "EAGLE3", "--speculative-draft-model-path", "tiny-draft"),
    *("--speculative-num-steps", "3", "--speculative-num-draft-tokens", "4"),
)


def test_a_draft_model_that_is_never_accepted_fails_the_accept_length_alone(start):
    found = _failed(start("--inject-fault", "draft-never-accepted", *_SPECULATION))
    assert found.keys() == {"occupancy", "sanity"}
    assert found["occupancy"].keys() == {"accept length"}
    assert found["sanity"].keys() == {"accept_length"}
    for messages in found.values():
        (message,) = messages.values()
        assert "avg_spec_accept_length" in message
        assert "accept length 1.0" in message
        assert "floor 1.8" in message


def test_a_request_that_gets_a_token_too_many_is_named(start):
    report = SANITY(
        start("--inject-fault", "one-token-too-many"),
        options=SanityOptions(skip="recall,answers", **_FEW),
    )
    failed = {check.name: check.message for check in report.with_outcome(Outcome.FAILED)}
    assert "asked for one token, got 2" in failed["one_token"]
    assert "asked for 8 tokens and tells of completion_tokens=9" in failed["completion"]
