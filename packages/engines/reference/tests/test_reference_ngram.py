"""Guesses that are looked up: the output is that of the model alone, whatever comes in between.

The `hash` model never repeats itself, so that guesses out of a request's own tokens are wrong, and those
out of the same request's first run are right: both are brought about here, on purpose.
"""

from __future__ import annotations

import pytest
from scripted_chunked import (
    LIFECYCLE_STAGES,
    advance_to_decode_step,
    advance_to_lifecycle_stage,
    flush,
    require_at_rest,
    run_steps,
    run_until_all_finished,
    run_until_finished,
    settle,
)
from scripted_core import InProcessSession
from scripted_core.views import RequestStatus
from scripted_reference.engine_kwargs import parse_engine_kwargs
from scripted_reference.models.closed_form import expected_output
from scripted_reference.speculation.ngram import NgramModel
from scripted_registry.ci import register_cpu_ci
from scripted_registry.errors import ConfigError

register_cpu_ci(est_time=6, stage="reference", runner_config="cpu")

_KWARGS = {
    "speculative_algorithm": "NGRAM",
    "speculative_num_draft_tokens": 4,
    "chunked_prefill_size": 64,
    "max_total_tokens": 2048,
    "max_running_requests": 8,
    "context_length": 512,
}
_CONFIGURATIONS = {
    "page1": _KWARGS,
    "page16": {**_KWARGS, "page_size": 16},
    "overlap-page1": {**_KWARGS, "disable_overlap_schedule": False},
    "overlap-page16": {**_KWARGS, "page_size": 16, "disable_overlap_schedule": False},
}
_each_configuration = pytest.mark.parametrize(
    "label",
    [
        pytest.param(label, marks=pytest.mark.scripted(**kwargs))
        for label, kwargs in _CONFIGURATIONS.items()
    ],
)
_NEW_TOKENS = 24
_LENGTHS = (3, 64, 150, 200)


def _prompt(length):
    # Few different tokens, so that each has been there before, and something else came behind it.
    return [4 + (i * i + 5 * i * length) % 11 for i in range(length)]


def _start(t, lengths=_LENGTHS, **params):
    given = {"max_new_tokens": _NEW_TOKENS, "ignore_eos": True, **params}
    return [t.start_req(input_ids=_prompt(length), **given) for length in lengths]


def _expected(lengths=_LENGTHS, **params):
    return [expected_output(_prompt(length), _NEW_TOKENS, **params) for length in lengths]


def _at_rest(t):
    yield from settle(t)
    require_at_rest(t)


def _outputs(handles):
    return [handle.output_ids for handle in handles]


@_each_configuration
def test_wrong_guesses_cost_no_token(t, label):
    lengths = t.scheduler.accept_lengths
    verified, tokens = lengths.verified, lengths.tokens
    handles = _start(t)
    yield from run_until_all_finished(handles)
    assert _outputs(handles) == _expected()
    assert handles[-1].chunks_done >= 3
    assert lengths.tokens - tokens == len(handles) * (_NEW_TOKENS - 1)
    assert lengths.tokens - tokens < 1.3 * (lengths.verified - verified), "few guesses are right"
    yield from _at_rest(t)


@_each_configuration
def test_what_was_said_before_is_guessed(t, label):
    first = _start(t, _LENGTHS[:1])[0]
    yield from run_until_finished(first)
    steps, lengths = t.step_index, t.scheduler.accept_lengths
    verified, tokens = lengths.verified, lengths.tokens
    again = _start(t, _LENGTHS[:1])[0]
    yield from run_until_finished(again)
    assert _outputs([first, again]) == _expected(_LENGTHS[:1]) * 2
    # Four tokens an iteration; the prompt, the way in and with overlap the way out have their own.
    assert t.step_index - steps <= _NEW_TOKENS // 4 + 4
    assert lengths.tokens - tokens == _NEW_TOKENS - 1
    assert lengths.verified - verified <= _NEW_TOKENS // 4 + 1
    yield from _at_rest(t)


@pytest.mark.scripted(**_KWARGS)
def test_a_flush_forgets_it(t):
    first = _start(t, _LENGTHS[:1])[0]
    yield from run_until_finished(first)
    yield from flush(t)
    steps = t.step_index
    again = _start(t, _LENGTHS[:1])[0]
    yield from run_until_finished(again)
    assert again.output_ids == first.output_ids
    assert t.step_index - steps > _NEW_TOKENS * 3 // 4


@_each_configuration
@pytest.mark.parametrize("stage", LIFECYCLE_STAGES)
@pytest.mark.parametrize("what", ["abort", "retract", "in_place"])
def test_whatever_comes_in_between_changes_no_token(t, label, stage, what):
    yield from run_until_all_finished(_start(t))  # guesses are right from here on
    t.evict_radix()
    yield
    handles = _start(t, _LENGTHS[::-1])
    yield from advance_to_lifecycle_stage(
        handles[0], stage, num_middle_chunks=1, max_new_tokens=_NEW_TOKENS
    )
    if what == "abort":
        t.abort(handles[0])
    else:
        t.pause_generation(mode=what)
        yield from run_steps(3)
        t.continue_generation()
    yield from run_until_all_finished(handles)
    expected = _expected(_LENGTHS[::-1])
    assert _outputs(handles)[1:] == expected[1:]
    if what != "abort":
        assert handles[0].output_ids == expected[0]
    else:
        assert handles[0].output_ids == expected[0][: len(handles[0].output_ids)]
        assert handles[0].status in (RequestStatus.ABORTED, RequestStatus.FINISHED)
    yield from _at_rest(t)


@_each_configuration
def test_stop_tokens_and_lengths_end_it_in_the_middle_of_a_guess(t, label):
    whole = _expected(_LENGTHS[1:2])[0]
    yield from run_until_all_finished(_start(t, _LENGTHS[1:2]))
    for length in range(1, 9):
        stopped = _start(t, _LENGTHS[1:2], ignore_eos=False, stop_token_ids=[whole[length - 1]])[0]
        short = _start(t, _LENGTHS[1:2], max_new_tokens=length)[0]
        yield from run_until_all_finished([stopped, short])
        end = expected_output(
            _prompt(_LENGTHS[1]),
            _NEW_TOKENS,
            ignore_eos=False,
            stop_token_ids=[whole[length - 1]],
        )
        assert stopped.output_ids == end
        assert short.output_ids == whole[:length]
    yield from _at_rest(t)


@_each_configuration
def test_few_pages_take_turns(t, label):
    yield from run_until_all_finished(_start(t))
    page = t.engine_stats()["page_size"]
    t.exhaust_kv(leave_pages=(_LENGTHS[-1] + _NEW_TOKENS) // page + 4, evictable="evict")
    yield
    handles = _start(t)
    yield from run_until_all_finished(handles)
    assert _outputs(handles) == _expected()
    t.release_exhausted()
    yield from _at_rest(t)


@_each_configuration
def test_pages_are_taken_from_running_requests(t, label):
    yield from run_until_all_finished(_start(t))
    handles = _start(t, _LENGTHS, max_new_tokens=2 * _NEW_TOKENS)
    for handle in handles:
        yield from advance_to_decode_step(handle, 2)
    t.exhaust_kv(leave_pages=1, evictable="evict")
    retracted = set()
    for _ in range(20):
        yield
        retracted |= set(t.queues.waiting)
    assert retracted
    t.release_exhausted()
    yield from run_until_all_finished(handles)
    expected = [expected_output(_prompt(length), 2 * _NEW_TOKENS) for length in _LENGTHS]
    assert _outputs(handles) == expected
    yield from _at_rest(t)


@_each_configuration
def test_sampled_tokens_are_those_without_guesses(t, label):
    params = {"temperature": 0.8}
    for _ in range(2):
        handles = _start(t, **params)
        yield from run_until_all_finished(handles)
        assert _outputs(handles) == _expected(**params)


# -- the lookup ----------------------------------------------------------------------------------


class _Said:
    """A request that has ended, as far as it is remembered."""

    def __init__(self, *tokens):
        self.origin_input_ids, self.output_ids = tokens[:1], tokens[1:]


@pytest.mark.parametrize(
    ("tokens", "ended", "guesses"),
    [
        ([1, 2, 3, 9, 1, 2], [], [3, 9, 1]),
        ([1, 2, 3, 1, 2, 4, 5, 1, 2], [], [4, 5, 1]),  # the last of two
        ([7, 1, 2, 3, 8, 1, 2, 4, 7, 1, 2], [], [3, 8, 1]),  # the longer of two
        ([5, 6, 5, 6, 5, 6], [], [5, 6, 5]),  # on from its own end
        ([4, 4], [], [4, 4, 4]),
        ([1, 2, 3], [], []),
        ([1, 2, 3], [(8, 2, 3, 7, 6, 5)], [7, 6, 5]),
        ([3, 9, 2, 3], [(8, 2, 3, 7, 6, 5)], [7, 6, 5]),  # longer there than in itself
        ([3, 9, 8, 3], [(7, 3, 6, 5, 4)], [9, 8, 3]),  # as long: itself
        ([1, 2], [(1, 2, 3, 4, 5), (1, 2, 6, 7, 8)], [6, 7, 8]),  # as long: the latest
    ],
)
def test_what_is_guessed(tokens, ended, guesses):
    model = NgramModel(target=_NoModel(), longest=8)
    for one in ended:
        model.remember(_Said(*one))
    assert model.guessable(tokens, 3) == (3 if guesses else 0)
    assert model._behind(tokens, 3) == guesses
    model.forget()
    assert model.guessable(tokens, 0) == 0


def test_no_longer_n_gram_is_looked_up_than_asked_for():
    tokens = [7, 1, 2, 3, 8, 1, 2, 4, 7, 1, 2]
    assert NgramModel(target=_NoModel(), longest=2)._behind(tokens, 2) == [4, 7]
    assert NgramModel(target=_NoModel(), longest=3)._behind(tokens, 2) == [3, 8]


class _NoModel:
    """Nothing is computed."""


# -- arguments -----------------------------------------------------------------------------------


def test_sglang_s_number_of_draft_tokens_counts():
    args = parse_engine_kwargs(_KWARGS)
    assert args.speculative_num_steps == 3
    with pytest.raises(ConfigError, match="speculative_num_draft_tokens=1 is no number of tokens"):
        parse_engine_kwargs({**_KWARGS, "speculative_num_draft_tokens": 1})
    with pytest.raises(ConfigError, match="speculative_ngram_max_trie_depth=0 is too small"):
        parse_engine_kwargs({**_KWARGS, "speculative_ngram_max_trie_depth": 0})


@pytest.mark.parametrize(
    ("other", "said"),
    [
        ({"pp_size": 2}, "speculative_algorithm='NGRAM' and pp_size=2 do not go together"),
        (
            {"disaggregation_mode": "pair"},
            "'NGRAM' and disaggregation_mode=pair do not go together",
        ),
        (
            {"model_path": "scripted/small-swa"},
            "'NGRAM' and model_path='hash' with sliding windows",
        ),
    ],
)
def test_what_does_not_go_together_is_refused_by_both_names(other, said):
    with pytest.raises(ConfigError, match=said):
        InProcessSession.start(backend="reference", **{**_KWARGS, **other})
