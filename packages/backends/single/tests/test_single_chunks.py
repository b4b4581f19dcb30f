"""Prompts that are computed chunk by chunk."""

from __future__ import annotations

import pytest
from scripted_backend_single import (
    CHUNK_TOKENS,
    require_at_rest,
    run_steps,
    settle,
    single_device_kwargs,
    undisturbed_output,
)
from scripted_chunked import (
    advance_to_decode_step,
    advance_to_nth_chunk,
    run_until_all_finished,
    run_until_finished,
)
from scripted_registry.ci import register_cpu_ci

register_cpu_ci(est_time=2, stage="single", runner_config="cpu")
register_cpu_ci(est_time=25, stage="single-sglang", runner_config="cpu")

pytestmark = pytest.mark.scripted(**single_device_kwargs())


def _chunks_of(prompt_len: int) -> int:
    """Chunks that are counted for a cold prompt: none if one batch holds all of it."""
    batches = -(-prompt_len // CHUNK_TOKENS)
    return batches if batches > 1 else 0


@pytest.mark.parametrize("offset", [-1, 0, 1])
@pytest.mark.parametrize("full_chunks", [1, 2, 4])
def test_chunk_boundaries(t, full_chunks, offset):
    prompt_len = full_chunks * CHUNK_TOKENS + offset
    r = t.start_req(prompt_len=prompt_len, seed=7, max_new_tokens=3, ignore_eos=True)
    yield from run_until_finished(r)
    assert r.chunks_done == _chunks_of(prompt_len)
    prefills = [record for record in t.batch_log if r.rid in record.extend_rids]
    assert len(prefills) == max(1, _chunks_of(prompt_len))
    assert [record.chunked_rid for record in prefills] == [r.rid] * (len(prefills) - 1) + [None]
    assert r.chunked_parks == 0
    assert len(r.output_ids) == 3
    yield from settle(t)
    require_at_rest(t)


def test_remaining_prompt_tokens_go_down_by_whole_chunks(t):
    prompt_len = 3 * CHUNK_TOKENS + 20
    r = t.start_req(prompt_len=prompt_len, max_new_tokens=4, ignore_eos=True)
    seen = []
    while not r.output_ids:
        yield
        seen.append(r.remaining_prompt_tokens)
    assert seen == sorted(seen, reverse=True)
    assert seen[-1] == 0
    steps = {max(0, prompt_len - chunk * CHUNK_TOKENS) for chunk in range(5)}
    assert set(seen) <= steps
    assert len(set(seen)) >= 4, seen
    yield from run_until_finished(r)


def test_the_chunked_request_is_known_as_such(t):
    r = t.start_req(prompt_len=3 * CHUNK_TOKENS, max_new_tokens=4, ignore_eos=True)
    yield from advance_to_nth_chunk(r, 1)
    assert r.is_chunking
    assert t.queues.chunked == (r.rid,)
    assert r.status == "running"
    assert r.output_ids == []
    yield from advance_to_decode_step(r, 1)
    assert not r.is_chunking
    assert t.queues.chunked == ()
    yield from run_until_finished(r)


@pytest.mark.scripted_requires("sglang_names")
def test_the_scheduler_holds_the_chunked_request(t):
    r = t.start_req(prompt_len=3 * CHUNK_TOKENS, max_new_tokens=4, ignore_eos=True)
    yield from advance_to_nth_chunk(r, 2)
    assert t.scheduler.chunked_req is r.req
    assert r.req not in t.scheduler.waiting_queue
    assert r.req not in t.scheduler.running_batch.reqs
    yield from run_until_finished(r)
    assert t.scheduler.chunked_req is None


def test_two_chunked_prompts_queue_behind_each_other(t):
    prompt_len = 2 * CHUNK_TOKENS + 32
    alone = []
    for seed in (1, 2):
        output = yield from undisturbed_output(
            t, prompt_len=prompt_len, seed=seed, max_new_tokens=6
        )
        alone.append(output)
    before = len(t.batch_log)
    first, second = (
        t.start_req(prompt_len=prompt_len, seed=seed, max_new_tokens=6, ignore_eos=True)
        for seed in (1, 2)
    )
    yield from run_until_all_finished([first, second])
    log = t.batch_log[before:]
    assert all(len(record.chunked_rids) <= 1 for record in log)
    of_first = [i for i, record in enumerate(log) if first.rid in record.extend_rids]
    of_second = [i for i, record in enumerate(log) if second.rid in record.extend_rids]
    assert of_first == [0, 1, 2]
    assert of_second[0] >= of_first[-1], "the second began before the first was complete"
    assert [first.output_ids, second.output_ids] == alone


def test_a_decoding_request_waits_for_a_chunked_prompt(t):
    decoding = t.start_req(prompt_len=10, seed=1, max_new_tokens=12, ignore_eos=True)
    yield from advance_to_decode_step(decoding, 2)
    chunked = t.start_req(
        prompt_len=2 * CHUNK_TOKENS + 8, seed=2, max_new_tokens=2, ignore_eos=True
    )
    yield
    assert t.batch_composition()["prefill"] == [chunked.rid]
    assert t.batch_composition()["decode"] == []
    assert t.batch_composition()["chunked"] == [chunked.rid]
    assert decoding.rid in t.batch_composition()["running"]
    assert t.last_batch_forward_mode == "extend"
    yield
    yield
    assert t.batch_composition()["prefill"] == [chunked.rid]
    assert t.batch_composition()["chunked"] == []
    yield
    assert t.last_batch_forward_mode == "decode"
    assert sorted(t.batch_composition()["decode"]) == sorted([decoding.rid, chunked.rid])
    assert t.batch_composition()["prefill"] == []
    yield from run_until_all_finished([decoding, chunked])


def test_before_the_first_batch_nothing_is_composed(t):
    assert t.batch is None
    assert t.last_batch_forward_mode is None
    assert t.batch_composition() == {"prefill": [], "decode": [], "chunked": [], "running": []}
    yield from run_steps(3)
    assert t.batch_log == ()
    assert t.step_index == 3


def test_the_batch_log_has_every_forward_of_the_script(t):
    r = t.start_req(prompt_len=CHUNK_TOKENS + 10, max_new_tokens=5, ignore_eos=True)
    yield from run_until_finished(r)
    yield from settle(t)
    log = t.batch_log
    assert [record.forward_iter for record in log] == list(range(1, len(log) + 1))
    assert [record.step for record in log] == sorted(record.step for record in log)
    modes = [record.mode.value for record in log]
    assert modes[:2] == ["extend", "extend"]
    # The prompt's last chunk gives the first token; an engine that overlaps runs one decode more.
    extra = 1 if "overlap" in t.capabilities else 0
    assert modes[2:6] == ["decode"] * 4
    assert len(modes) <= 6 + extra
    assert all(record.rids == (r.rid,) for record in log)
