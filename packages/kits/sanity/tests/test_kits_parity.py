"""`logprob_parity`: a server against its plain twin, as a prefill/decode pair is against one."""

from __future__ import annotations

import pytest
from scripted_kit_client import Outcome
from scripted_kit_sanity import SanityOptions, probe_named
from scripted_kit_sanity.kit import kit_of
from scripted_registry.ci import register_cpu_ci

register_cpu_ci(est_time=15, stage="reference", runner_config="cpu")

pytestmark = pytest.mark.usefixtures("seeded_faults")

_PARITY = kit_of(probe_named("logprob_parity"))


def test_chunks_and_pages_change_no_log_probability(start):
    twin = start("--chunked-prefill-size", "32", "--page-size", "16")
    report = _PARITY(start(), options=SanityOptions(parity_url=twin.url))
    report.raise_for_outcome()
    (check,) = report.checks
    assert check.message == "4 tokens, log probabilities at most 0 apart"


def test_a_server_whose_kv_is_wrong_is_told_from_its_twin(start):
    wrong = start("--inject-fault", "kv-slot-corrupted")
    report = _PARITY(wrong, options=SanityOptions(parity_url=start().url))
    (failed,) = report.with_outcome(Outcome.FAILED)
    assert "the tokens are" in failed.message or "a log probability is" in failed.message
    assert start().url in failed.message


def test_a_twin_that_is_not_there_is_said_with_its_url(start):
    report = _PARITY(start(), options=SanityOptions(parity_url="http://127.0.0.1:9"))
    assert report.outcome is Outcome.BROKEN
    assert "http://127.0.0.1:9" in str(report.error)
