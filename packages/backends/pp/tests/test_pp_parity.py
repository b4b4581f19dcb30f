"""A pipeline answers as one device does: tokens, and log probabilities.

The reference engine computes a token by the same operations in the same order however its layers are
divided, so its log probabilities are compared bit for bit: the tolerance is 0.
"""

from __future__ import annotations

import importlib.util

import pytest
from scripted_backend_pp import pipeline_kwargs
from scripted_chunked import flush, run_until_all_finished, warmup_radix
from scripted_core import InProcessSession
from scripted_core.errors import ConfigError
from scripted_registry.ci import register_cpu_ci

register_cpu_ci(est_time=20, stage="pp", runner_config="cpu")

_needs_torch = pytest.mark.skipif(
    importlib.util.find_spec("torch") is None, reason="torch is not installed"
)
_PROMPT_LENS = (20, 100, 257, 257)
_NEW_TOKENS = 16
_SHARED_LEN = 150


@pytest.fixture(params=["hash", pytest.param("tiny", marks=_needs_torch)])
def model(request):
    return request.param


def _answers(*, warm=False, **overrides):
    """Output tokens and their log probabilities of every prompt, by one engine."""
    answers = []

    def script(t):
        vocab = t.engine.vocab_size
        prompts = [
            [4 + (i * i + 31 * n * i + n) % (vocab - 4) for i in range(length)]
            for n, length in enumerate(_PROMPT_LENS)
        ]
        if warm:
            for prompt in prompts[2:]:
                yield from warmup_radix(t, prompt[:_SHARED_LEN])
        handles = [
            t.start_req(
                input_ids=prompt,
                max_new_tokens=_NEW_TOKENS,
                ignore_eos=True,
                return_logprob="logprobs" in t.capabilities,
                logprob_start_len=0 if "logprobs" in t.capabilities else None,
            )
            for prompt in prompts
        ]
        yield
        natives = [handle.req for handle in handles]
        yield from run_until_all_finished(handles)
        answers.extend(
            (handle.output_ids, native.output_logprobs, native.input_logprobs)
            for handle, native in zip(handles, natives, strict=True)
        )
        yield from flush(t)

    with InProcessSession.start(backend="reference", **pipeline_kwargs(**overrides)) as session:
        session.execute_script(script)
    return answers


@pytest.mark.parametrize("warm", [False, True], ids=["cold", "warm"])
def test_stages_answer_as_one_device(model, warm):
    one_device = _answers(
        model_path=model, pp_size=1, chunked_prefill_size=-1, disable_radix_cache=True
    )
    assert len({tuple(tokens) for tokens, _, _ in one_device}) == len(_PROMPT_LENS)
    for pp_size, depth, page_size in ((2, 0, 1), (3, 2, 16)):
        answers = _answers(
            warm=warm,
            model_path=model,
            pp_size=pp_size,
            pp_async_batch_depth=depth,
            page_size=page_size,
        )
        assert answers == one_device


def test_four_stages_of_the_hash_model():
    assert _answers(pp_size=4, pp_async_batch_depth=2) == _answers(pp_size=1)


@_needs_torch
def test_a_model_has_no_more_stages_than_layers():
    with pytest.raises(ConfigError, match="3 layers, and each stage needs one"):
        _answers(model_path="tiny", pp_size=4)


def test_what_is_not_divided_is_refused():
    with pytest.raises(ConfigError, match="pp_size=2 and model_path='hash' with sliding windows"):
        _answers(model_path="scripted/small-swa", pp_size=2)
    with pytest.raises(ConfigError, match="do not go together"):
        _answers(pp_size=2, dp_size=2)
