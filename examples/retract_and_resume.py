"""Retract a request in the middle of its chunked prefill, let others in, and resume it.

    scripted run examples/retract_and_resume.py --backend reference
    scripted run examples/retract_and_resume.py --backend sglang

The same file is a pytest test (`pytest examples/retract_and_resume.py`). It uses only what every
engine has: no engine's own objects are touched, so it runs on all of them unchanged.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from scripted_chunked import (
    advance_to_nth_chunk,
    base_engine_kwargs,
    run_until,
    run_until_all_finished,
)
from scripted_core import RequestStatus, ScriptedContext

CHUNK = 64  # tokens of a prompt that one prefill batch computes

# The engine that this script wants; on the reference engine the small model is its built-in one.
ENGINE_KWARGS = base_engine_kwargs(
    chunked_prefill_size=CHUNK, max_total_tokens=2048, max_running_requests=8
)


# ENGINE_KWARGS is what `scripted run` and unittest users read; the mark says the same to pytest.
@pytest.mark.scripted(**ENGINE_KWARGS)
@pytest.mark.scripted_requires("chunked_prefill", "retract")
def test_retract_and_resume(t: ScriptedContext) -> Iterator[None]:
    """A retracted prompt goes back to the queue, and its output is as if nothing had happened."""
    # First run one request without any disturbance: its output is what we compare with. seed= makes
    # a random prompt, so that a KV slot that is lost, shared or stale would change the output.
    # (Automatic request ids are scripted-<n>-<hex>; we name ours, the table is easier to read.)
    calm = t.start_req(rid="calm", prompt_len=200, seed=7, max_new_tokens=6, ignore_eos=True)
    yield from run_until_all_finished([calm])
    assert len(calm.output_ids) == 6

    # Empty the prefix tree, or the next request would find its whole prompt there and need no chunks.
    # An engine flushes only when nothing is in flight any more (with overlapped scheduling the last
    # result comes an iteration late). flush_cache() is posted to the engine's inbox; the coming
    # iteration receives it.
    yield from run_until(calm, lambda _: t.is_fully_idle, max_steps=10)
    receipt = t.flush_cache()
    yield
    assert receipt.ok, "the engine was idle, so the flush has to succeed"

    # The same prompt again. start_req() returns when the request is in the inbox, before the engine has
    # received it. Each yield is exactly one iteration: receive, schedule, run the batch, process.
    long = t.start_req(rid="long", prompt_len=200, seed=7, max_new_tokens=6, ignore_eos=True)
    yield from advance_to_nth_chunk(long, 2)
    assert long.is_chunking
    assert long.status == RequestStatus.RUNNING
    assert long.chunks_done == 2  # 128 of its 200 tokens are in the KV pool

    # Retract: everything that runs, and the prompt that is half way, goes back to the waiting queue.
    t.pause_generation(mode="retract")
    yield
    assert long.status == RequestStatus.WAITING
    assert not long.is_chunking
    assert not long.output_ids

    # While the engine is paused, requests arrive and queue, and nothing advances.
    short = [
        t.start_req(rid=f"short-{n}", prompt_len=20, seed=n, max_new_tokens=4, ignore_eos=True)
        for n in (1, 2)
    ]
    chunks_before = long.chunks_done
    for _ in range(3):
        yield
        assert [handle.status for handle in (long, *short)] == [RequestStatus.WAITING] * 3
    assert long.chunks_done == chunks_before

    # Resume. The long prompt starts over (or takes up what the prefix tree kept of it).
    t.continue_generation()
    yield from run_until_all_finished([long, *short])

    # Nothing may be lost, repeated or changed by all this ...
    assert long.output_ids == calm.output_ids
    assert [len(handle.output_ids) for handle in short] == [4, 4]
    # ... and at the end of every script the runtime compares what each client received with what the
    # scheduler produced, and after every iteration who owns each KV page: no code is needed for that.
