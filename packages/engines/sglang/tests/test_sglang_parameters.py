"""Every parameter of ``start_req`` does in SGLang what it says, and every way in which a request ends.

Priority, LoRA and the pools have files of their own; pauses and aborts at each stage of a request's
life are in the portable scripts.
"""

from __future__ import annotations

import math

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
from scripted_core.errors import CapabilityMissing, ConfigError
from scripted_registry.ci import register_cpu_ci
from scripted_sglang import launch

register_cpu_ci(est_time=10, stage="single-sglang", runner_config="cpu")

pytestmark = [
    pytest.mark.skipif(
        launch.check_usable() is not None,
        reason=f"needs the capability 'an installed SGLang': {launch.check_usable()}",
    ),
    pytest.mark.parametrize("scripted_backend", ["sglang"], indirect=True),
    pytest.mark.scripted(**single_device_kwargs()),
]

_PROMPT = {"prompt_len": 20, "seed": 3}
_repeats_a_token = pytest.mark.scripted_known_defect(
    engine="sglang",
    releases="<0.5.16",
    finding="docs/findings/sglang-abort-repeats-a-token.md",
    match="client.token_ids == r.output_ids",
)


def _run(t, **wishes):
    r = t.start_req(**{**_PROMPT, "max_new_tokens": 4, "ignore_eos": True, **wishes})
    yield from run_until_finished(r)
    assert r.client.wait_ended(5.0)
    yield from settle(t)
    return r


# -- prompts -------------------------------------------------------------------------------------


def test_the_three_ways_to_give_a_prompt(t):
    for wishes in (
        {"prompt_len": 20, "seed": 5},
        {"prompt_len": 20, "seed": None, "prompt_token": 7},
        {"prompt_len": None, "seed": None, "input_ids": list(range(4, 24))},
    ):
        given = {name: value for name, value in {**_PROMPT, **wishes}.items() if value is not None}
        r = t.start_req(**given, max_new_tokens=2, ignore_eos=True)
        yield
        ids = list(r.req.origin_input_ids)
        assert len(ids) == 20
        if "input_ids" in given:
            assert ids == given["input_ids"]
        if "prompt_token" in given:
            assert ids == [7] * 20
        yield from run_until_finished(r)


# -- sampling ------------------------------------------------------------------------------------


def test_temperature_zero_is_greedy_and_a_high_one_is_not(t):
    greedy = yield from _run(t, max_new_tokens=12)
    again = yield from _run(t, max_new_tokens=12, temperature=0.0)
    assert again.output_ids == greedy.output_ids
    hot = yield from _run(t, max_new_tokens=12, temperature=100.0)
    assert hot.output_ids != greedy.output_ids


def test_a_stop_token_is_the_last_one_and_the_end_is_a_stop(t):
    alone = yield from undisturbed_output(t, **_PROMPT, max_new_tokens=12)
    last = next(i for i in range(4, 12) if alone[i] not in alone[:i])
    r = yield from _run(t, max_new_tokens=40, stop_token_ids=[alone[last]], ignore_eos=False)
    assert r.finish_reason.kind == "stop"
    assert r.output_ids == r.client.token_ids == alone[: last + 1]
    assert r.client.finish_reason.kind == "stop"
    assert r.client.meta_info["finish_reason"]["matched"] == alone[last]


@pytest.mark.parametrize("ignore_eos", [False, True])
def test_the_end_of_sequence_token_is_an_end_unless_it_is_ignored(t, ignore_eos):
    alone = yield from undisturbed_output(t, **_PROMPT, max_new_tokens=12)
    last = next(i for i in range(4, 12) if alone[i] not in alone[:i])
    r = t.start_req(**_PROMPT, max_new_tokens=12, ignore_eos=ignore_eos)
    yield
    r.req.eos_token_ids = {alone[last]}
    yield from run_until_finished(r)
    if ignore_eos:
        assert (r.finish_reason.kind, r.output_ids) == ("length", alone)
    else:
        assert (r.finish_reason.kind, r.output_ids) == ("stop", alone[: last + 1])


# -- log probabilities ---------------------------------------------------------------------------


def _tokens_of(entries):
    return [token for _, token, *_ in entries]


def test_log_probabilities_of_the_output(t):
    plain = yield from _run(t)
    assert "output_token_logprobs" not in plain.client.meta_info
    r = yield from _run(t, return_logprob=True)
    entries = r.client.meta_info["output_token_logprobs"]
    assert _tokens_of(entries) == r.output_ids == plain.output_ids
    assert all(-math.inf < value <= 0 for value, *_ in entries)
    assert r.client.meta_info["input_token_logprobs"] == []


@pytest.mark.parametrize("start", [0, 5, 19])
def test_log_probabilities_of_the_prompt_from_a_token_on(t, start):
    yield from _run(t)  # what is in the prefix tree has to be computed again for them
    r = yield from _run(t, return_logprob=True, logprob_start_len=start)
    entries = r.client.meta_info["input_token_logprobs"]
    prompt = _tokens_of(entries)
    assert len(prompt) == 20 - start
    whole = yield from _run(t, return_logprob=True, logprob_start_len=0)
    assert _tokens_of(whole.client.meta_info["input_token_logprobs"])[start:] == prompt


@pytest.mark.parametrize("prompt_len", [20, 3 * CHUNK_TOKENS + 5])
def test_the_most_likely_tokens_have_the_greedy_one_first(t, prompt_len):
    r = yield from _run(t, prompt_len=prompt_len, return_logprob=True, top_logprobs_num=3)
    top = r.client.meta_info["output_top_logprobs"]
    assert [len(entries) for entries in top] == [3] * 4
    assert [_tokens_of(entries)[0] for entries in top] == r.output_ids
    for entries in top:
        values = [value for value, *_ in entries]
        assert values == sorted(values, reverse=True)


def test_all_of_the_vocabulary_is_the_most_that_can_be_asked_for(t):
    size = t.engine.vocab_size
    r = yield from _run(t, max_new_tokens=1, return_logprob=True, top_logprobs_num=size)
    (entries,) = r.client.meta_info["output_top_logprobs"]
    assert math.isclose(sum(math.exp(value) for value, *_ in entries), 1.0, rel_tol=1e-4)
    for wishes, named in (
        ({"top_logprobs_num": size + 1}, f"top_logprobs_num={size + 1} is above {size}"),
        ({"top_logprobs_num": -1}, "top_logprobs_num=-1 is below 0"),
        ({"logprob_start_len": -2}, "logprob_start_len=-2 is below -1"),
    ):
        with pytest.raises(ConfigError, match=named):
            t.start_req(**_PROMPT, return_logprob=True, **wishes)
    after = yield from _run(t)
    assert after.status == "finished"


def test_log_probabilities_beyond_the_prompt_end_the_request_with_a_reason(t):
    r = yield from _run(t, return_logprob=True, logprob_start_len=21)
    assert r.status == "aborted"
    assert "logprob_start_len=21" in r.finish_reason.message


# -- what this server was not started for --------------------------------------------------------


@pytest.mark.parametrize(
    ("wishes", "named"),
    [({"priority": 1}, "priority"), ({"lora_path": "a"}, "lora"), ({"dp_rank": 0}, "dp")],
)
def test_what_the_server_cannot_do_is_named(t, wishes, named):
    with pytest.raises(CapabilityMissing, match=f"'{named}'"):
        t.start_req(**_PROMPT, **wishes)
    yield


# -- ends ----------------------------------------------------------------------------------------


def _reach(t, stage):
    """A request at a stage, and how many tokens it may have when it is aborted there."""
    prompt_len = 3 * CHUNK_TOKENS if stage == "mid_chunk" else 20
    r = t.start_req(prompt_len=prompt_len, seed=9, max_new_tokens=30, ignore_eos=True)
    match stage:
        case "queued":
            assert r.status == "waiting"
        case "waiting":
            yield
            assert r.status == "waiting"
        case "mid_chunk":
            yield from advance_to_nth_chunk(r, 1)
        case "running":
            yield from advance_to_decode_step(r, 3)
        case "retracted":
            yield from advance_to_decode_step(r, 3)
            t.pause_generation(mode="retract")
            yield
            assert r.status == "waiting"
    return r


@pytest.mark.parametrize("via", ["inbox", "http"])
@pytest.mark.parametrize(
    "stage",
    [
        "queued",
        "waiting",
        "mid_chunk",
        "running",
        pytest.param("retracted", marks=_repeats_a_token),
    ],
)
def test_an_abort_ends_a_request_wherever_it_is_and_its_client_hears_of_it(t, stage, via):
    if stage == "waiting":
        t.exhaust("rows", leave_rows=0)
        yield
    r = yield from _reach(t, stage)
    had = len(r.output_ids)
    t.abort(r, via=via)
    yield from run_until_finished(r, max_steps=8)
    assert (r.status, r.finish_reason.kind) == ("aborted", "abort")
    assert had <= len(r.output_ids) <= had + 2
    assert r.client.wait_ended(5.0), "its client was not told"
    assert r.client.finish_reason.kind == "abort"
    assert r.client.token_ids == r.output_ids[: len(r.client.token_ids)]
    t.continue_generation()
    t.release_exhausted()
    yield
    yield from settle(t)
    require_at_rest(t)


@pytest.mark.parametrize("mode", ["retract", "in_place"])
def test_abort_all_ends_everything_while_paused(t, mode):
    running = t.start_req(**_PROMPT, max_new_tokens=30, ignore_eos=True)
    yield from advance_to_decode_step(running, 3)
    t.pause_generation(mode=mode)
    yield
    waiting = t.start_req(prompt_len=20, seed=4, max_new_tokens=4, ignore_eos=True)
    yield
    t.abort_all()
    yield from run_steps(2)
    assert waiting.status == "aborted"
    assert running.finished is (mode == "retract")
    t.continue_generation()
    yield from run_until_all_finished([running, waiting], max_steps=8)
    assert running.status == "aborted"
    yield from settle(t)
    require_at_rest(t)


def test_a_client_that_hangs_up_ends_its_request(t):
    other = t.start_req(prompt_len=20, seed=5, max_new_tokens=4, ignore_eos=True)
    t.exhaust("rows", leave_rows=0)
    r = t.start_req(**_PROMPT, max_new_tokens=400, ignore_eos=True)
    yield from run_steps(2)
    assert r.status == "waiting"
    r.client.hang_up()
    # The front takes two seconds to say so; an idle iteration takes a fraction of a millisecond.
    yield from run_until_finished(r, max_steps=200_000)
    assert (r.status, r.finish_reason.kind) == ("aborted", "abort")
    assert r.client.error == "the client hung up"
    t.release_exhausted()
    yield from run_until_finished(other)
    assert other.status == "finished"
    yield from settle(t)
    require_at_rest(t)


def test_a_request_that_is_refused_at_the_front_never_was(t):
    r = t.start_req(prompt_len=1024, seed=1, max_new_tokens=100)
    assert (r.status, r.finish_reason.kind) == ("aborted", "refused")
    assert r.client.ended
    yield from run_steps(2)
    assert t.batch_log == ()
    assert t.is_fully_idle
