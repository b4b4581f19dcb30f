"""Gauntlets for a pair, each with much at once: what `hatch run faults` looks for mistakes with."""

from __future__ import annotations

from functools import cache

import pytest
from scripted_backend_pd import Prompt, advance_to_pd_stage, outputs_of_one_engine, pair_kwargs
from scripted_chunked import advance_to_decode_step, run_until_all_finished, run_until_finished
from scripted_core.views import PdStage
from scripted_registry.ci import register_cpu_ci

register_cpu_ci(est_time=2, stage="pd", runner_config="cpu")

_KWARGS = pair_kwargs(page_size=4)
_PROMPTS = (Prompt(250, seed=1), Prompt(90, seed=2), Prompt(130, seed=3))
pytestmark = [
    pytest.mark.scripted_requires("pd_prefill", "pd_decode"),
    pytest.mark.scripted(**_KWARGS),
]


@cache
def _right(prompts=_PROMPTS):
    """What one engine answers that does both."""
    return outputs_of_one_engine(prompts, _KWARGS)


def _all_pending(t, handles):
    t.transfer.hold()
    while not all(any(c.is_last for c in t.transfer.pending_of(h)) for h in handles):
        yield


def _quiet(t):
    for _ in range(40):
        yield
    assert t.is_fully_idle
    assert not any(t.get_all_node_lock_refs().values())


def test_out_of_order_twice_and_across_retractions(t):
    right = _right()
    handles = [prompt.start(t) for prompt in _PROMPTS]
    t.transfer.hold()
    while len(t.transfer.pending_of(handles[0])) < 2:
        yield
    t.prefill.pause_generation(mode="retract")
    yield
    t.transfer.step(2)
    yield
    t.prefill.continue_generation()
    yield from _all_pending(t, handles)
    for chunk in t.transfer.pending:
        t.transfer.duplicate(chunk, iterations=25)
    yield
    t.transfer.reorder(list(reversed(t.transfer.pending)))
    t.transfer.resume()
    yield from advance_to_decode_step(handles[1], 4)
    t.pause_generation(mode="retract")
    yield
    t.continue_generation()
    yield from run_until_all_finished(handles)
    assert [handle.output_ids for handle in handles] == right
    yield from _quiet(t)


def test_out_of_order_alone(t):
    right = _right()
    handles = [prompt.start(t) for prompt in _PROMPTS]
    yield from _all_pending(t, handles)
    t.transfer.reorder(list(reversed(t.transfer.pending)))
    t.transfer.step()
    yield
    t.transfer.step()
    yield
    assert t.transfer.stage(handles[2]) is PdStage.TRANSFERRING
    t.transfer.resume()
    yield from run_until_all_finished(handles)
    assert [handle.output_ids for handle in handles] == right


def test_twice_and_into_the_hands_of_others(t):
    right = _right()
    victim = _PROMPTS[0].start(t)
    yield from _all_pending(t, [victim])
    for chunk in t.transfer.pending:
        t.transfer.duplicate(chunk, iterations=6)
    t.transfer.resume()
    yield
    t.abort(victim)
    yield
    handles = [prompt.start(t) for prompt in _PROMPTS[1:]]
    yield from run_until_all_finished(handles)
    assert [handle.output_ids for handle in handles] == right[1:]
    yield from _quiet(t)


def test_lost_on_the_way_and_aborted_on_one_side(t):
    lost = _PROMPTS[0].start(t)
    yield from _all_pending(t, [lost])
    for chunk in t.transfer.pending:
        t.transfer.drop(chunk)
    t.transfer.resume()
    yield from run_until_finished(lost)
    assert lost.status == "aborted"
    for side in ("decode", "prefill"):
        gone = _PROMPTS[1].start(t)
        yield from advance_to_pd_stage(t, gone, PdStage.TRANSFERRING)
        getattr(t, side).abort(gone)
        t.transfer.resume()
        yield from run_until_finished(gone)
        assert gone.status == "aborted"
    yield from _quiet(t)


def test_a_cached_beginning_travels_with_the_rest(t):
    prompts = (Prompt(40, seed=21, shared=128), Prompt(40, seed=22, shared=128))
    right = _right(prompts)
    handles = []
    for prompt in prompts:
        handles.append(prompt.start(t))
        yield from run_until_finished(handles[-1])
    assert [handle.output_ids for handle in handles] == right
    # Others have its slots by now: what is not sent anew is not there by chance.
    for prompt in _PROMPTS:
        yield from run_until_finished(prompt.start(t))
    again = prompts[0].start(t)
    yield from run_until_finished(again)
    assert again.output_ids == right[0]


def test_memory_is_short_while_kv_is_on_its_way(t):
    right = _right()
    handles = [prompt.start(t) for prompt in _PROMPTS]
    yield from _all_pending(t, handles)
    t.prefill.exhaust_kv(leave_pages=0, evictable="evict")
    yield
    kept = [t.prefill.view(handle).kv_pages for handle in handles]
    assert kept == [63, 23, 33], "it stays until it has arrived"
    t.release_exhausted()
    t.transfer.resume()
    yield from advance_to_decode_step(handles[2], 4)
    t.decode.exhaust_kv(leave_pages=0)
    seen = set()
    for _ in range(12):
        yield
        seen |= {t.transfer.stage(handle) for handle in handles}
    assert PdStage.RETRACTED in seen
    t.release_exhausted()
    yield from run_until_all_finished(handles)
    assert [handle.output_ids for handle in handles] == right
