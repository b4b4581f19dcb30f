"""Retract a request in the middle of its chunked prefill, then run the engine out of KV memory.

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
from scripted_core import RequestStatus, ScriptedContext, ScriptedReqHandle

CHUNK = 64  # tokens of a prompt that one prefill batch computes

# The engine that this script wants; on the reference engine the small model is its built-in one.
ENGINE_KWARGS = base_engine_kwargs(
    chunked_prefill_size=CHUNK, max_total_tokens=2048, max_running_requests=8
)


def start(t: ScriptedContext, prefix: str) -> list[ScriptedReqHandle]:
    """One long and two short requests; the same three prompts whatever their names begin with."""
    # seed= makes a random prompt, so that a KV slot that is lost, shared or stale would change the
    # output. (Automatic request ids are scripted-<n>-<hex>; named ones are easier to read.)
    return [
        t.start_req(
            rid=f"{prefix}-{name}",
            prompt_len=prompt_len,
            seed=prompt_len,
            max_new_tokens=max_new_tokens,
            ignore_eos=True,
        )
        for name, prompt_len, max_new_tokens in (("long", 200, 8), ("b", 20, 10), ("c", 24, 10))
    ]


# ENGINE_KWARGS is what `scripted run` and unittest users read; the mark says the same to pytest.
@pytest.mark.scripted(**ENGINE_KWARGS)
@pytest.mark.scripted_requires("chunked_prefill", "retract")
def test_retract_and_resume(t: ScriptedContext) -> Iterator[None]:
    """Retracted requests go back to the queue, and their output is as if nothing had happened."""
    # First without any disturbance: these outputs are what we compare with.
    calm = start(t, "calm")
    yield from run_until_all_finished(calm)

    # Empty the prefix tree, or the next requests would find their prompts there and need no chunks.
    # An engine flushes only when nothing is in flight any more (with overlapped scheduling the last
    # result comes an iteration late). flush_cache() is posted to the engine's inbox; the coming
    # iteration receives it.
    yield from run_until(calm[0], lambda _: t.is_fully_idle, max_steps=10)
    receipt = t.flush_cache()
    yield
    assert receipt.ok, "the engine was idle, so the flush has to succeed"

    # The same prompts again. start_req() returns when the request is in the inbox, before the engine
    # has received it. Each yield is exactly one iteration: receive, schedule, run the batch, process.
    disturbed = start(t, "x")
    long = disturbed[0]
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

    # While the engine is paused, nothing advances.
    for _ in range(3):
        yield
        assert {handle.status for handle in disturbed} == {RequestStatus.WAITING}
    assert long.chunks_done == 2

    # Resume. The long prompt starts over (or takes up what the prefix tree kept of it).
    t.continue_generation()
    yield from run_until(long, lambda _: all(len(one.output_ids) >= 2 for one in disturbed))

    # Take the KV pool down to what three requests need for one more token each. The engine runs out
    # of memory while it decodes, has to retract a request by itself, and to resume it once the others
    # have made room. Exhausted memory comes back at the end of the script.
    t.exhaust_kv(leave_pages=3, evictable="evict")
    retracted: set[str] = set()
    while not all(handle.finished for handle in disturbed):
        yield
        retracted |= {one.rid for one in disturbed if one.status == RequestStatus.WAITING}
    assert retracted, "there was room for all of them, nothing had to be retracted"

    # Nothing may be lost, repeated or changed by all this ...
    for before, after in zip(calm, disturbed, strict=True):
        assert after.output_ids == before.output_ids
    # ... and at the end of every script the runtime compares what each client received with what the
    # scheduler produced, and after every iteration who owns each KV page: no code is needed for that.
