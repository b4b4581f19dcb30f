"""An engine with a window pool answers as one that keeps everything: tokens, and log probabilities.

The reference engine computes a token by the same operations in the same order wherever its KV lies, so
its log probabilities are compared bit for bit: the tolerance is 0.
"""

from __future__ import annotations

import importlib.util
from functools import cache

import pytest
from scripted_backend_swa import WINDOW_TOKENS, sliding_window_kwargs, trained_window_kwargs
from scripted_chunked import flush, run_until_all_finished, warmup_radix
from scripted_core import InProcessSession
from scripted_registry.ci import register_cpu_ci

register_cpu_ci(est_time=35, stage="swa", runner_config="cpu")

_needs_torch = pytest.mark.skipif(
    importlib.util.find_spec("torch") is None, reason="torch is not installed"
)
_MODELS = {"hash": sliding_window_kwargs, "trained": trained_window_kwargs}
_PROMPT_LENS = (20, 100, 257, 257)
_NEW_TOKENS = 2 * WINDOW_TOKENS
_SHARED_LEN = 150


@pytest.fixture(params=["hash", pytest.param("trained", marks=_needs_torch)])
def model(request):
    return request.param


def _prompts(vocab):
    return [
        [4 + (i * i + 31 * n * i + n) % (vocab - 4) for i in range(length)]
        for n, length in enumerate(_PROMPT_LENS)
    ]


def _answers(*, warm, **kwargs):
    """Output tokens and their log probabilities of every prompt, by one engine."""
    answers = []

    def script(t):
        prompts = _prompts(t.engine.vocab_size)
        with_logprobs = "logprobs" in t.capabilities
        if warm:
            for prompt in prompts[2:]:
                yield from warmup_radix(t, prompt[:_SHARED_LEN])
        handles = [
            t.start_req(
                input_ids=prompt,
                max_new_tokens=_NEW_TOKENS,
                ignore_eos=True,
                return_logprob=with_logprobs,
            )
            for prompt in prompts
        ]
        yield
        natives = [handle.req for handle in handles]
        yield from run_until_all_finished(handles)
        answers.extend(
            (
                handle.output_ids,
                [(one.token_id, one.logprob) for one in native.output_logprobs],
            )
            for handle, native in zip(handles, natives, strict=True)
        )
        yield from flush(t)

    with InProcessSession.start(backend="reference", **kwargs) as session:
        session.execute_script(script)
    return answers


@cache
def _answers_of_one_pool(model):
    alone = {"chunked_prefill_size": -1, "disable_radix_cache": True}
    return _answers(warm=False, **_MODELS[model](disable_hybrid_swa_memory=True, **alone))


@pytest.mark.parametrize("warm", [False, True], ids=["cold", "warm"])
def test_one_pool_and_two_answer_the_same(model, warm):
    kwargs = _MODELS[model]
    one_pool = _answers_of_one_pool(model)
    assert len({tuple(tokens) for tokens, _ in one_pool}) == len(_PROMPT_LENS)
    # Overlap is the scheduler's affair: the model that computes in no time is enough for it.
    overlapping = [(1, True)] if model == "hash" else []
    for page_size, overlap in ((1, False), (16, False), *overlapping):
        two_pools = kwargs(page_size=page_size, disable_overlap_schedule=not overlap)
        assert _answers(warm=warm, **two_pools) == one_pool
    overlapping = kwargs(disable_overlap_schedule=False)
    assert _answers(warm=warm, **overlapping) == one_pool


def test_the_window_is_seen_at_all(model):
    kwargs = _MODELS[model]
    windowed = [tokens for tokens, _ in _answers(warm=False, **kwargs())]
    other = '{"sliding_window": 31}' if model == "hash" else "{}"
    without = kwargs(json_model_override_args=other)
    assert [tokens for tokens, _ in _answers(warm=False, **without)] != windowed
