"""Arguments of models with sliding windows: what is taken, and what is refused with which words."""

from __future__ import annotations

from typing import Any

import pytest
from scripted_core import InProcessSession
from scripted_reference.args import HASH_MODEL, SMALL_SWA_MODEL
from scripted_reference.engine_kwargs import parse_engine_kwargs
from scripted_registry.ci import register_cpu_ci
from scripted_registry.errors import ConfigError

register_cpu_ci(est_time=1, stage="reference", runner_config="cpu")


def test_the_small_model_is_the_hash_model_with_a_window() -> None:
    args = parse_engine_kwargs({"model_path": SMALL_SWA_MODEL})
    assert args.model_path == HASH_MODEL
    assert args.json_model_override_args == {"sliding_window": 32}
    wider = {"model_path": SMALL_SWA_MODEL, "json_model_override_args": '{"sliding_window": 50}'}
    assert parse_engine_kwargs(wider).json_model_override_args == {"sliding_window": 50}


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"json_model_override_args": "{"}, "is no JSON"),
        ({"json_model_override_args": "[1]"}, "is no object"),
        ({"json_model_override_args": {"sliding_window": 1}}, "sliding_window=1 is no window"),
        ({"json_model_override_args": {"sliding_window": True}}, "is no window"),
        ({"json_model_override_args": {"hidden_size": 3}}, "'hidden_size', which the model"),
        ({"swa_full_tokens_ratio": 1.5}, "swa_full_tokens_ratio=1.5 is impossible"),
        ({"swa_full_tokens_ratio": "x"}, "is not a number"),
        (
            {"model_path": SMALL_SWA_MODEL, "swa_full_tokens_ratio": 0.01},
            "a window pool of 81 tokens, and a window of 32 with the next chunk takes 2082",
        ),
    ],
)
def test_what_is_refused(kwargs: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        parse_engine_kwargs(kwargs)
    assert caught.value.hint


def test_without_chunks_a_prompt_has_to_fit_into_the_window_pool() -> None:
    refused = []

    def script(t: Any) -> Any:
        r = t.start_req(prompt_len=200, max_new_tokens=4)
        refused.append(r.finish_reason.message)
        fits = t.start_req(prompt_len=100, max_new_tokens=4, ignore_eos=True)
        for _ in range(8):
            yield
        assert len(fits.output_ids) == 4

    with InProcessSession.start(
        backend="reference",
        model_path=SMALL_SWA_MODEL,
        chunked_prefill_size=-1,
        max_total_tokens=1000,
        swa_full_tokens_ratio=0.15,
    ) as session:
        session.execute_script(script)
    assert refused == [
        "The input (200 tokens) is longer than the KV pool (150 tokens); raise max_total_tokens."
    ]


def test_a_model_without_windows_has_one_pool() -> None:
    with InProcessSession.start(backend="reference", swa_full_tokens_ratio=0.5) as session:
        assert "swa" not in session.capabilities
    with InProcessSession.start(
        backend="reference", model_path=SMALL_SWA_MODEL, disable_hybrid_swa_memory=True
    ) as session:
        assert "swa" not in session.capabilities
    with InProcessSession.start(
        backend="reference", model_path=SMALL_SWA_MODEL, dp_size=2
    ) as session:
        assert "swa" in session.capabilities
