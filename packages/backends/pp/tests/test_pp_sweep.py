"""Chunk counts by concurrency, through four stages with two more microbatch slots."""

from __future__ import annotations

import pytest
from scripted_backend_pp import CHUNK_TOKENS, deep_pipeline_kwargs, require_ranks_alike
from scripted_chunked import require_at_rest, run_until_all_finished, settle, undisturbed_output
from scripted_registry.ci import register_cpu_ci

register_cpu_ci(est_time=5, stage="pp", runner_config="cpu")

pytestmark = [
    pytest.mark.scripted(**deep_pipeline_kwargs()),
    pytest.mark.scripted_requires("pp", "chunked_prefill"),
]

_NEW_TOKENS = 6


@pytest.mark.parametrize("concurrent", [1, 2, 4])
@pytest.mark.parametrize("chunks", [2, 4, 6, 8])
def test_chunks_by_concurrency(t, chunks, concurrent):
    prompt_len = chunks * CHUNK_TOKENS
    expected = []
    for seed in range(concurrent):
        output = yield from undisturbed_output(
            t, prompt_len=prompt_len, seed=seed, max_new_tokens=_NEW_TOKENS
        )
        expected.append(output)
    handles = [
        t.start_req(prompt_len=prompt_len, seed=seed, max_new_tokens=_NEW_TOKENS, ignore_eos=True)
        for seed in range(concurrent)
    ]
    yield from run_until_all_finished(handles)
    assert [handle.output_ids for handle in handles] == expected
    assert {handle.chunks_done for handle in handles} == {chunks}
    yield from settle(t)
    require_at_rest(t)
    require_ranks_alike(t)


@pytest.mark.parametrize("chunks", [2, 4, 6, 8])
def test_each_microbatch_has_a_chunk(t, chunks):
    r = t.start_req(
        prompt_len=chunks * CHUNK_TOKENS, seed=1, max_new_tokens=_NEW_TOKENS, ignore_eos=True
    )
    yield from run_until_all_finished([r])
    steps = [record.step for record in t.batch_log if r.rid in record.extend_rids]
    assert steps == list(range(steps[0], steps[0] + chunks)), "chunks wait for no result"
