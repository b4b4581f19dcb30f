"""Whether a wrong slot of the window pool shows in the output at all: what comparisons rest on."""

from __future__ import annotations

import importlib.util
import random

import pytest
from scripted_backend_swa import WINDOW_TOKENS, sliding_window_kwargs, trained_window_kwargs
from scripted_chunked import advance_to_decode_step, run_until_all_finished, run_until_finished
from scripted_registry.ci import register_cpu_ci

register_cpu_ci(est_time=50, stage="swa", runner_config="cpu")

_needs_torch = pytest.mark.skipif(
    importlib.util.find_spec("torch") is None, reason="torch is not installed"
)
pytestmark = [
    pytest.mark.scripted_requires("swa", "sglang_names"),
    # It breaks the KV on purpose. What it must not break, it checks itself.
    pytest.mark.scripted_options(check_invariants=False),
]
_SEEN_AT_LEAST = 0.99
_PROMPT_LEN = 100
_TRIALS = 500
_AT_ONCE = 4


def _trials(t, *, seeds, corrupted):
    """Outputs of several trials at once; of each one slot of the window was overwritten, early on."""
    handles = [
        t.start_req(prompt_len=_PROMPT_LEN, seed=seed, max_new_tokens=12, ignore_eos=True)
        for seed in seeds
    ]
    for handle in handles:
        yield from advance_to_decode_step(handle, 2)
    if corrupted:
        for seed, handle in zip(seeds, handles, strict=True):
            _corrupt(t.scheduler, handle.req, random.Random(seed))
    yield from run_until_all_finished(handles)
    return [handle.output_ids for handle in handles]


def _corrupt(scheduler, req, rng):
    newest = req.kv_committed_len
    position = newest - 1 - rng.randrange(WINDOW_TOKENS - 2)
    row = scheduler.req_to_token_pool.req_to_token[req.req_pool_idx]
    other = row[rng.randrange(newest - WINDOW_TOKENS + 2, newest)]
    mapping = scheduler.memory.window_storage.mapping
    storage = scheduler.memory.window_storage.kv_pool
    if other == row[position]:
        other = row[position - 1]
    storage.write(int(mapping[row[position]]), storage.read(int(mapping[other])))


@pytest.mark.scripted_requires("closed_form_output")
@pytest.mark.scripted(**sliding_window_kwargs(disable_radix_cache=True))
def test_a_wrong_window_slot_changes_the_output_of_the_hash_model(t):
    seen = 0
    for first in range(0, _TRIALS, _AT_ONCE):
        seeds = range(first, first + _AT_ONCE)
        clean = yield from _trials(t, seeds=seeds, corrupted=False)
        broken = yield from _trials(t, seeds=seeds, corrupted=True)
        seen += sum(one != other for one, other in zip(clean, broken, strict=True))
    assert seen >= _SEEN_AT_LEAST * _TRIALS


@_needs_torch
@pytest.mark.scripted(**trained_window_kwargs(disable_radix_cache=True))
def test_a_foreign_window_slot_changes_the_output_of_the_trained_model(t):
    # Keys and values of another prompt's token in one window slot of the first layer and the last.
    seen = 0
    trials = 20
    kv = t.scheduler.model.kv
    for seed in range(trials):
        clean = yield from _plain(t, seed)
        foreign = t.start_req(prompt_len=_PROMPT_LEN, seed=9000 + seed, max_new_tokens=40)
        r = t.start_req(prompt_len=_PROMPT_LEN, seed=seed, max_new_tokens=24, ignore_eos=True)
        yield from advance_to_decode_step(r, 2)
        table, mapping = (
            t.scheduler.req_to_token_pool.req_to_token,
            t.scheduler.memory.window_storage.mapping,
        )
        rng = random.Random(seed)
        at = r.req.kv_committed_len - 1 - rng.randrange(WINDOW_TOKENS - 4)
        wrong = mapping[table[r.req.req_pool_idx, at]]
        source = 0 if foreign.req is None else mapping[table[foreign.req.req_pool_idx, at]]
        for layer in t.scheduler.model.config.window_layers:
            kv.keys[layer][wrong] = kv.keys[layer][source]
            kv.values[layer][wrong] = kv.values[layer][source]
        yield from run_until_finished(r)
        t.abort(foreign)
        yield
        seen += r.output_ids != clean
    assert seen >= 0.9 * trials


def _plain(t, seed):
    r = t.start_req(prompt_len=_PROMPT_LEN, seed=seed, max_new_tokens=24, ignore_eos=True)
    yield from run_until_finished(r)
    return r.output_ids
