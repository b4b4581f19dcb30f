"""Scripts on the reference engine under its canary: clean ones stay clean, broken slots are found."""

from __future__ import annotations

import pytest
from scripted_registry.ci import register_cpu_ci

register_cpu_ci(est_time=20, stage="unit", runner_config="cpu")
TINY = {"model_path": "tiny", "max_total_tokens": 1024, "context_length": 512}


def finish(*handles):
    for _ in range(200):
        if all(handle.finished for handle in handles):
            return
        yield
    raise AssertionError("not finished")


@pytest.mark.scripted(**TINY, chunked_prefill_size=32)
def test_a_canary_watches_a_transformer_without_being_asked_for(t):
    requests = [t.start_req(prompt_len=70, seed=i, max_new_tokens=6, ignore_eos=True) for i in range(3)]
    yield from finish(*requests)
    again = t.start_req(prompt_len=70, seed=0, max_new_tokens=6, ignore_eos=True)
    yield from finish(again)
    assert again.output_ids == requests[0].output_ids
    assert t.canary.violations_total == 0
    assert t.canary.verified_slots_total > 1000
