"""Scripts of the tests of pairs: of servers they run in the decode server's scheduler."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Generator, Iterator
from typing import Literal

from scripted_chunked import (
    advance_to_decode_step,
    run_until_all_finished,
    run_until_finished,
    settle,
)
from scripted_core import ScriptedContext, ScriptedHttpServer, ScriptedReqHandle
from scripted_core.errors import EngineDied
from scripted_core.views import FinishKind, FinishReason, PdStage

from scripted_backend_pd.parity import Prompt
from scripted_backend_pd.stages import advance_to_pd_stage

_MOST_STEPS = 20_000

CROWD = tuple(Prompt(60 + 9 * i, seed=i, max_new_tokens=40) for i in range(8))


def crowd_answers(t: ScriptedContext, expected: list[list[int]]) -> Iterator[None]:
    """Eight requests at once; `expected` is what one engine answers."""
    handles = [prompt.start(t) for prompt in CROWD]
    yield from run_until_all_finished(handles)
    assert [handle.output_ids for handle in handles] == expected
    assert [handle.client.token_ids for handle in handles] == expected, "through the router"


def each_yield_is_one_of_each(t: ScriptedContext) -> Iterator[None]:
    """The prefill server runs one iteration for each of the script."""
    r = Prompt(256, seed=3).start(t)
    computed = []
    while t.transfer.stage(r) is not PdStage.DECODING:
        yield
        view = t.prefill.view(r)
        computed.append(256 if view is None else view.computed_tokens)
    # The decode server hands out memory in the first one, and chunks of 64 follow it.
    assert computed[:5] == [0, 64, 128, 192, 256]
    assert r.chunks_done == 4, "prefill batches are in the batch log of the script"
    yield from run_until_finished(r)


def a_prefix_hit_saves_the_prefill(t: ScriptedContext, expected: list[list[int]]) -> Iterator[None]:
    """A prompt whose beginning is cached there; then its tree is flushed."""
    prompts = [Prompt(40, seed=i, shared=128) for i in (21, 22)]
    cold = prompts[0].start(t)
    yield from run_until_finished(cold)
    evictable = t.prefill.engine_stats()["kv_pool_evictable"]
    assert evictable >= 168
    warm = prompts[1].start(t)
    yield from run_until_finished(warm)
    assert (cold.chunks_done, warm.chunks_done) == (3, 0)
    assert [cold.output_ids, warm.output_ids] == expected
    t.prefill.flush_cache()
    yield
    yield
    assert t.prefill.engine_stats()["kv_pool_evictable"] == 0


def aborted_at(t: ScriptedContext, stage: str, expected: list[list[int]]) -> Iterator[None]:
    """A request aborted in `stage`, beside one that goes on; no memory is lost on either side."""
    other = CROWD[0].start(t)
    r = Prompt(200, seed=5, max_new_tokens=30).start(t)
    yield from advance_to_pd_stage(t, r, PdStage(stage))
    t.abort(r)
    yield
    t.transfer.resume()
    yield from run_until_finished(r)
    assert _end_of(r).kind is FinishKind.ABORT
    yield from run_until_finished(other)
    assert other.output_ids == expected[0]
    for _ in range(4):
        yield
    for side in (t.prefill, t.decode):
        stats = side.engine_stats()
        assert stats["kv_pool_free"] + stats["kv_pool_evictable"] == stats["kv_pool_total"]


def aborted_in_one_engine(t: ScriptedContext, side: str) -> Iterator[None]:
    """An abort in one engine while KV is on its way ends the request in the other."""
    r = Prompt(200, seed=5, max_new_tokens=30).start(t)
    yield from advance_to_pd_stage(t, r, PdStage.TRANSFERRING)
    (t.prefill if side == "prefill" else t.decode).abort(r)
    yield
    yield from run_until_finished(r)
    assert _end_of(r).kind is FinishKind.ABORT
    for _ in range(4):
        yield
    assert t.prefill.view(r) is None
    assert t.decode.view(r) is None


def paused_and_retracted(
    t: ScriptedContext,
    side: str,
    mode: Literal["retract", "in_place"],
    expected: list[list[int]],
) -> Iterator[None]:
    """One engine paused while requests are everywhere, then continued."""
    handles = [prompt.start(t) for prompt in CROWD]
    yield from advance_to_decode_step(handles[1], 4)
    chosen = t.prefill if side == "prefill" else t.decode
    chosen.pause_generation(mode=mode)
    yield
    assert chosen.is_paused
    assert t.prefill.is_paused == (side == "prefill")
    before = [len(handle.output_ids) for handle in handles]
    for _ in range(6):
        yield
    if side == "decode":
        assert [len(handle.output_ids) for handle in handles] == before
        if mode == "retract":
            assert any(t.transfer.stage(handle) is PdStage.RETRACTED for handle in handles)
    chosen.continue_generation()
    yield from run_until_all_finished(handles)
    assert [handle.output_ids for handle in handles] == expected


def prefill_loses_a_prompt_part_way(
    t: ScriptedContext, expected: list[list[int]]
) -> Iterator[None]:
    """A retraction there while chunks are on their way: all is sent again."""
    r = Prompt(256, seed=9).start(t)
    yield from advance_to_pd_stage(t, r, PdStage.PREFILLING)
    yield
    t.prefill.pause_generation(mode="retract")
    yield
    assert t.prefill.status(r) == "waiting"
    t.prefill.continue_generation()
    yield from run_until_finished(r)
    assert [r.output_ids] == expected


def chunks_are_stepped_and_reordered(
    t: ScriptedContext, expected: list[list[int]]
) -> Iterator[None]:
    """Chunks delivered one by one, the last one first."""
    r = Prompt(256, seed=9).start(t)
    t.transfer.hold()
    while len(t.transfer.pending_of(r)) < 4:
        yield
    t.transfer.reorder(list(reversed(t.transfer.pending)))
    for done in range(1, 5):
        t.transfer.step()
        yield
        assert t.transfer.delivered == done
    assert t.transfer.stage(r) is PdStage.TRANSFERRED
    t.transfer.resume()
    yield from run_until_finished(r)
    assert [r.output_ids] == expected


def a_lost_chunk_fails_its_request(t: ScriptedContext) -> Iterator[None]:
    """A chunk that never arrives."""
    r = Prompt(200, seed=5).start(t)
    yield from advance_to_pd_stage(t, r, PdStage.TRANSFERRING)
    t.transfer.drop(t.transfer.pending[0])
    t.transfer.resume()
    yield from run_until_finished(r)
    assert "64 of 200 positions did not arrive" in _end_of(r).message


def exhausted_decode_pages_hold_the_prefill_engine_back(
    t: ScriptedContext, expected: list[list[int]]
) -> Iterator[None]:
    """Nothing is prefilled that the decode engine has no pages for; all is answered afterwards."""
    t.decode.exhaust_kv(leave_pages=4)
    yield
    handles = [prompt.start(t) for prompt in CROWD]
    for _ in range(80):
        yield
    assert all(t.transfer.stage(handle) is PdStage.QUEUED for handle in handles)
    assert not t.batch_log
    t.release_exhausted()
    yield from run_until_all_finished(handles)
    assert [handle.output_ids for handle in handles] == expected


def pages_are_exhausted_on_either_side(
    t: ScriptedContext, expected: list[list[int]]
) -> Iterator[None]:
    """Held pages of one pool, then of the other, and no violation of it."""
    yield from exhausted_decode_pages_hold_the_prefill_engine_back(t, expected)
    first = Prompt(256, seed=11).start(t)
    yield from advance_to_pd_stage(t, first, PdStage.PREFILLING)
    t.prefill.exhaust_kv(leave_pages=2, evictable="evict")
    for _ in range(80):
        yield
    assert t.prefill.status(first) == "running", "no memory for its next chunk, and no violation"
    assert t.engine.kv_pools["full@prefill"].held > 0
    t.release_exhausted()
    yield from run_until_finished(first)


def decode_pages_run_out(
    t: ScriptedContext, expected: list[list[int]]
) -> Generator[None, None, list[ScriptedReqHandle]]:
    """Memory pressure in the decode engine: requests give way, and nothing is lost; the requests."""
    handles = [prompt.start(t) for prompt in CROWD]
    retracted = set()
    while not all(handle.finished for handle in handles):
        yield
        retracted |= {h.rid for h in handles if t.transfer.stage(h) is PdStage.RETRACTED}
    assert len(retracted) >= 2
    assert [handle.output_ids for handle in handles] == expected
    return handles


def oversize_prompts_are_refused(t: ScriptedContext, expected: list[list[int]]) -> Iterator[None]:
    """A prompt that the prefill server cannot hold, and then one that it can."""
    long = t.start_req(prompt_len=301, seed=1)
    assert long.finished
    assert _end_of(long).kind is FinishKind.REFUSED
    assert "300" in _end_of(long).message
    # The decode server gets to know over HTTP, from the router: in no certain number of iterations.
    yield from settle(t, max_steps=_MOST_STEPS)
    r = CROWD[0].start(t)
    yield from run_until_finished(r)
    assert r.output_ids == expected[0]


def spins(t: ScriptedContext) -> Iterator[None]:
    """A long request, and a script that never ends."""
    Prompt(200, seed=5, max_new_tokens=700).start(t)
    while True:
        yield


def _end_of(handle: ScriptedReqHandle) -> FinishReason:
    assert handle.finish_reason is not None, f"{handle.rid} has ended"
    return handle.finish_reason


def death_of(server: ScriptedHttpServer, whom: str) -> tuple[str, float]:
    """Kill one process of a pair under a script: what the session says, and how many seconds later.

    Raises ``AssertionError`` when it says nothing.
    """
    victim = next(pid for pid, name in server.pids.items() if name == whom)
    killed: list[float] = []

    def kill() -> None:
        os.kill(victim, signal.SIGKILL)
        killed.append(time.monotonic())

    killer = threading.Timer(0.4, kill)
    killer.start()
    try:
        server.execute_script(spins)
    except EngineDied as death:
        seen = time.monotonic()
        killer.join()
        return str(death), seen - killed[0]
    raise AssertionError(f"the script ended although {whom} was killed")
