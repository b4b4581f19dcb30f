"""Scripts that each watch one thing which no other script would miss.

Found by seeding mistakes into an engine and looking for what went unnoticed.
"""

from __future__ import annotations

import random

import pytest
from scripted_backend_single import (
    CHUNK_TOKENS,
    PAGE_TOKENS,
    Choice,
    engine_axes,
    flush,
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
    warmup_radix,
)
from scripted_registry.ci import register_cpu_ci

register_cpu_ci(est_time=2, stage="single", runner_config="cpu")
register_cpu_ci(est_time=60, stage="single-sglang", runner_config="cpu")

pytestmark = pytest.mark.scripted(**single_device_kwargs())

# Pages of one token are every engine's default.
_page_sizes = pytest.mark.parametrize(
    "page_size",
    [
        pytest.param(1, id="page1"),
        pytest.param(
            PAGE_TOKENS, marks=pytest.mark.scripted(page_size=PAGE_TOKENS), id=f"page{PAGE_TOKENS}"
        ),
    ],
)


def pytest_generate_tests(metafunc):
    """Engine arguments that only the embedded engine is given: another one would not start."""
    asked = metafunc.config.getoption("scripted_backend") or [None]
    axes = engine_axes(asked[0], full=True)
    if "overlap" in metafunc.fixturenames:
        # An engine of which nothing is known runs as it does by default.
        default = [Choice(label="serial")]
        labels = {"serial", "overlap"}
        choices = next((axis for axis in axes if labels == {c.label for c in axis}), default)
        metafunc.parametrize(
            "overlap",
            [
                pytest.param(
                    choice.label == "overlap",
                    marks=[pytest.mark.scripted(**choice.kwargs)] if choice.kwargs else [],
                    id=choice.label,
                )
                for choice in choices
            ],
        )
    if "model" in metafunc.fixturenames:
        tiny = [choice for axis in axes for choice in axis if choice.label == "tiny"]
        marks = [pytest.mark.scripted(**choice.kwargs) for choice in tiny]
        marks += [pytest.mark.skip(reason=c.missing) for c in tiny if c.missing is not None]
        metafunc.parametrize("model", [pytest.param("tiny" if tiny else "own", marks=marks)])
    if "replicas" in metafunc.fixturenames:
        is_embedded = len(axes) > 2
        marks = [pytest.mark.scripted(dp_size=2)] if is_embedded else []
        metafunc.parametrize("replicas", [pytest.param(2, marks=marks)])


def _tokens(t, n, *, seed):
    rng = random.Random(seed)
    return [rng.randrange(1, t.engine.vocab_size) for _ in range(n)]


# -- the queue -----------------------------------------------------------------------------------


# An engine that has to compute every chunk it has begun with cannot be brought here.
@pytest.mark.scripted_requires("closed_form_output")
@_page_sizes
def test_a_parked_chunk_keeps_its_place_and_goes_on(t, page_size):
    prompt = {"prompt_len": 3 * CHUNK_TOKENS + 32, "seed": 31}
    alone = yield from undisturbed_output(t, **prompt, max_new_tokens=6)
    r = t.start_req(**prompt, max_new_tokens=6, ignore_eos=True)
    yield from advance_to_nth_chunk(r, 1)
    remaining, pages = r.remaining_prompt_tokens, r.kv_pages
    t.exhaust_kv(leave_pages=0)
    for parks in range(1, 6):
        yield
        assert (r.chunks_done, r.chunked_parks, r.is_chunking) == (1, parks, True)
        assert (r.remaining_prompt_tokens, r.kv_pages) == (remaining, pages)
    t.release_exhausted()
    yield from run_until_finished(r)
    assert r.chunks_done == 4
    assert r.output_ids == alone
    yield from settle(t)
    require_at_rest(t)


@pytest.mark.scripted(enable_priority_scheduling=True)
@pytest.mark.scripted_requires("priority", "row_pool")
def test_a_higher_priority_goes_first(t):
    t.exhaust("rows", leave_rows=1)
    t.pause_generation(mode="in_place")
    yield
    started = {
        priority: t.start_req(
            prompt_len=20, seed=priority, max_new_tokens=2, ignore_eos=True, priority=priority
        )
        for priority in (1, 9, 5)
    }
    yield
    t.continue_generation()
    yield from run_until_all_finished(list(started.values()))
    served = list(dict.fromkeys(rid for record in t.batch_log for rid in record.rids))
    assert served == [started[priority].rid for priority in (9, 5, 1)]


@pytest.mark.scripted_requires("dp")
def test_a_request_runs_on_the_replica_that_it_names(t, replicas):
    pools = list(t.engine.kv_pools.values())
    assert len(pools) == replicas
    for rank in (1, 1, 0):
        yield from settle(t)
        before = [pool.available for pool in pools]
        r = t.start_req(prompt_len=40, seed=rank, max_new_tokens=8, ignore_eos=True, dp_rank=rank)
        yield from advance_to_decode_step(r, 2)
        taken = [had - pool.available for had, pool in zip(before, pools, strict=True)]
        assert taken[1 - rank] == 0, f"it was to run on replica {rank}: {taken}"
        yield from run_until_finished(r)
        t.evict_radix()
        yield


# -- memory --------------------------------------------------------------------------------------


@pytest.mark.parametrize("tokens_left", [1, 2, 3])
def test_a_retraction_close_to_the_end_ends_the_request_once(t, overlap, tokens_left):
    seeds, new_tokens = (41, 42), 10
    alone = []
    for seed in seeds:
        output = yield from undisturbed_output(
            t, prompt_len=60, seed=seed, max_new_tokens=new_tokens
        )
        alone.append(output)
    started = [
        t.start_req(prompt_len=60, seed=seed, max_new_tokens=new_tokens, ignore_eos=True)
        for seed in seeds
    ]
    yield from advance_to_decode_step(started[-1], new_tokens - tokens_left)
    t.exhaust_kv(leave_pages=1)
    yield from run_until_all_finished(started)
    t.release_exhausted()
    yield from run_steps(3)
    assert [r.output_ids for r in started] == alone
    for r in started:
        assert r.status == "finished"
        assert r.client.wait_ended(5.0), "the client's stream did not end"
        assert r.client.token_ids == r.output_ids
    yield from settle(t)
    require_at_rest(t)


@pytest.mark.scripted_requires("prefix_cache")
@_page_sizes
def test_the_tree_keeps_no_more_than_was_put_out(t, page_size, overlap):
    # The last token is never fed back. What an engine that overlaps wrote for it is nobody's.
    for prompt_len, new_tokens in ((40, 8), (40, 9), (CHUNK_TOKENS + 30, 3)):
        yield from flush(t)
        r = t.start_req(prompt_len=prompt_len, seed=51, max_new_tokens=new_tokens, ignore_eos=True)
        yield from run_until_finished(r)
        yield from settle(t)
        known = prompt_len + new_tokens - 1
        if "length_end_uncached" not in t.capabilities:
            # It launches once more before it sees an end by length: the last token has been fed back by
            # then, and its KV is whole.
            known += 1
        assert t.engine_stats()["kv_pool_evictable"] <= known // page_size
        require_at_rest(t)


def test_a_flush_waits_for_what_is_in_flight(t, overlap):
    r = t.start_req(prompt_len=40, seed=52, max_new_tokens=6, ignore_eos=True)
    yield from run_until_finished(r)
    in_flight = not t.is_fully_idle
    if "closed_form_output" in t.capabilities:
        # Other engines that overlap may know of an end by length before they launch once more.
        assert in_flight is overlap, "the script did not get where it is to look"
    receipt = t.flush_cache()
    yield
    assert receipt.ok is not in_flight
    yield from flush(t)
    require_at_rest(t)


# -- the prefix tree -----------------------------------------------------------------------------


@pytest.mark.scripted_requires("prefix_cache")
@_page_sizes
def test_the_least_recently_used_prefix_is_evicted(t, page_size):
    kept, dropped = (_tokens(t, 96, seed=seed) for seed in (61, 62))
    for tokens in (kept, dropped, kept):
        yield from warmup_radix(t, tokens)
    yield from settle(t)
    t.exhaust_kv(leave_pages=t.engine_stats()["kv_pool_evictable"])
    yield
    # It needs less than one of the two prefixes has.
    foreign = t.start_req(prompt_len=50, seed=63, max_new_tokens=4, ignore_eos=True)
    yield from run_until_finished(foreign)
    t.release_exhausted()
    yield from settle(t)
    hit = t.start_req(input_ids=[*kept, 5], max_new_tokens=2, ignore_eos=True)
    yield from run_until_finished(hit)
    missed = t.start_req(input_ids=[*dropped, 5], max_new_tokens=2, ignore_eos=True)
    yield from run_until_finished(missed)
    assert (hit.chunks_done, missed.chunks_done) == (0, 2)


@pytest.mark.scripted_requires("prefix_cache")
@pytest.mark.parametrize("shared", [1, PAGE_TOKENS - 1, PAGE_TOKENS, CHUNK_TOKENS + 1])
@_page_sizes
def test_prompts_that_part_have_their_own_outputs(t, page_size, shared):
    prompts = [_tokens(t, shared, seed=68) + _tokens(t, 40, seed=seed) for seed in (69, 70)]
    alone, together = [], []
    for outputs, flushed in ((alone, True), (together, False)):
        for prompt in prompts:
            if flushed:
                yield from flush(t)
            r = t.start_req(input_ids=prompt, max_new_tokens=4, ignore_eos=True)
            yield from run_until_finished(r)
            yield from settle(t)
            outputs.append(r.output_ids)
    assert together == alone


@pytest.mark.scripted_requires("prefix_cache")
def test_a_prompt_of_many_chunks_counts_as_one_hit(t):
    most = []
    for prompt_len in (CHUNK_TOKENS // 2, 4 * CHUNK_TOKENS):
        yield from warmup_radix(t, _tokens(t, prompt_len, seed=64))
        yield from settle(t)
        most.append(max(t.get_all_node_hit_counts().values()))
        yield from flush(t)
    assert most[1] == most[0], "chunks were counted"


@pytest.mark.scripted_requires("prefix_cache")
@_page_sizes
def test_a_split_prefix_stays_locked_by_who_runs_on_it(t, page_size):
    tokens = _tokens(t, 56, seed=65)
    alone = yield from undisturbed_output(t, prompt_len=20, seed=66, max_new_tokens=4)
    r = t.start_req(input_ids=tokens, max_new_tokens=24, ignore_eos=True)
    yield from advance_to_decode_step(r, 2)
    # It shares the first half: the node of the running request is split.
    splitting = t.start_req(
        input_ids=[*tokens[:32], *_tokens(t, 9, seed=67)], max_new_tokens=2, ignore_eos=True
    )
    yield from run_until_finished(splitting)
    t.evict_radix()
    yield
    other = t.start_req(prompt_len=20, seed=66, max_new_tokens=4, ignore_eos=True)
    yield from run_until_all_finished([r, other])
    assert other.output_ids == alone
    disturbed = r.output_ids
    yield from flush(t)
    again = t.start_req(input_ids=tokens, max_new_tokens=24, ignore_eos=True)
    yield from run_until_finished(again)
    assert disturbed == again.output_ids


# -- the end of an output ------------------------------------------------------------------------


@pytest.mark.parametrize("retractions", [0, 1, 2])
def test_a_stop_token_ends_a_request_that_was_retracted(t, retractions):
    prompt = {"prompt_len": 30, "seed": 71}
    alone = yield from undisturbed_output(t, **prompt, max_new_tokens=12)
    last = next(i for i in range(6, 12) if alone[i] not in alone[:i])
    r = t.start_req(**prompt, max_new_tokens=40, stop_token_ids=[alone[last]])
    for i in range(retractions):
        yield from advance_to_decode_step(r, 1 + 2 * i)
        t.pause_generation(mode="retract")
        yield from run_steps(2)
        t.continue_generation()
    yield from run_until_finished(r)
    assert r.finish_reason.kind == "stop"
    assert r.output_ids == alone[: last + 1]


@pytest.mark.scripted_requires("logprobs")
def test_log_probabilities_of_a_chunked_prompt_leave_the_output_as_it_is(t, model):
    prompt = {"prompt_len": 3 * CHUNK_TOKENS + 10, "seed": 72, "max_new_tokens": 4}
    alone = yield from undisturbed_output(t, **prompt)
    r = t.start_req(**prompt, ignore_eos=True, return_logprob=True, logprob_start_len=0)
    yield from run_until_finished(r)
    assert r.output_ids == alone
