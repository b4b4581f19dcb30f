from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from scripted_reference import memory_bounds
from scripted_reference.args import (
    HASH_MODEL,
    SMALL_MODEL,
    SchedulePolicy,
    ServerArgs,
)
from scripted_reference.engine_kwargs import parse_engine_kwargs
from scripted_registry.ci import register_cpu_ci
from scripted_registry.errors import ConfigError

register_cpu_ci(est_time=1, stage="reference", runner_config="cpu")


def test_defaults() -> None:
    args = parse_engine_kwargs({})
    assert args == ServerArgs()
    assert (args.max_total_tokens, args.max_running_requests, args.page_size) == (8192, 16, 1)
    assert args.schedule_policy is SchedulePolicy.FCFS
    assert args.without_effect == ()


def test_known_names_are_taken() -> None:
    args = parse_engine_kwargs(
        {"chunked_prefill_size": 64, "page_size": 16, "schedule_policy": "lpm", "random_seed": 7}
    )
    assert (args.chunked_prefill_size, args.page_size, args.random_seed) == (64, 16, 7)
    assert args.schedule_policy is SchedulePolicy.LPM


def test_none_stands_for_the_default() -> None:
    assert parse_engine_kwargs({"max_total_tokens": None, "tp_size": None}) == ServerArgs()


def test_minus_one_means_no_chunks() -> None:
    assert parse_engine_kwargs({"chunked_prefill_size": -1}).chunk_tokens is None
    assert parse_engine_kwargs({"chunked_prefill_size": 64}).chunk_tokens == 64


@pytest.mark.parametrize("name", [SMALL_MODEL, HASH_MODEL])
def test_the_small_model_is_the_hash_model(name: str) -> None:
    assert parse_engine_kwargs({"model_path": name}).model_path == HASH_MODEL


def test_what_has_no_effect_is_accepted_and_reported() -> None:
    args = parse_engine_kwargs(
        {"mem_fraction_static": 0.5, "dtype": "half", "attention_backend": "triton"}
    )
    assert args.without_effect == ("attention_backend", "dtype", "mem_fraction_static")


def test_an_unknown_name_is_refused_with_the_nearest_one() -> None:
    with pytest.raises(ConfigError, match="'chunk_prefill_size'") as caught:
        parse_engine_kwargs({"chunk_prefill_size": 64})
    assert caught.value.hint == "did you mean 'chunked_prefill_size'?"
    with pytest.raises(ConfigError, match="'zzzzzz'"):
        parse_engine_kwargs({"zzzzzz": 1})
    with pytest.raises(ConfigError, match="without_effect"):
        parse_engine_kwargs({"without_effect": ()})


@pytest.mark.parametrize(
    ("kwargs", "lack"),
    [
        ({"tp_size": 2}, "tensor parallelism"),
        ({"enable_mixed_chunk": True}, "mixing decodes"),
        ({"speculative_algorithm": "EAGLE3"}, "needs a draft model"),
        ({"speculative_draft_model_path": "tiny-draft"}, "without speculative_algorithm"),
        ({"speculative_token_map": "x"}, "speculative decoding"),
        ({"disaggregation_mode": "both"}, "disaggregation"),
    ],
)
def test_what_the_engine_lacks_is_refused(kwargs: dict[str, Any], lack: str) -> None:
    with pytest.raises(ConfigError, match=lack) as caught:
        parse_engine_kwargs(kwargs)
    assert next(iter(kwargs)) in caught.value.message
    assert caught.value.hint is not None


def test_asking_for_nothing_special_is_fine() -> None:
    kwargs = {
        "tp_size": 1,
        "pp_size": 1,
        "disable_overlap_schedule": True,
        "speculative_num_steps": None,
    }
    assert parse_engine_kwargs(kwargs) == ServerArgs()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("chunked_prefill_size", "64"),
        ("chunked_prefill_size", 0),
        ("chunked_prefill_size", -2),
        ("max_total_tokens", 0),
        ("max_total_tokens", 12.5),
        ("max_running_requests", True),
        ("page_size", -1),
        ("context_length", 1),
        ("disable_radix_cache", 1),
        ("schedule_policy", "random"),
        ("schedule_conservativeness", "high"),
        ("schedule_conservativeness", -0.1),
        ("schedule_conservativeness", float("nan")),
        ("random_seed", -3),
        ("model_path", ""),
        ("model_path", 3),
        ("dp_size", 0),
        ("disable_overlap_schedule", 0),
        ("enable_lora", "yes"),
        ("enable_metrics", 1),
        ("load_format", "gguf"),
        ("device", "tpu"),
        ("device", "cuda:"),
        ("served_model_name", ""),
        ("lora_paths", "folder"),
        ("lora_paths", [3]),
        ("lora_paths", ["=folder"]),
        ("lora_paths", ["a=here", "a=there"]),
        ("lora_paths", {"a": 1}),
    ],
)
def test_an_impossible_value_is_refused_by_name_and_value(name: str, value: object) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_engine_kwargs({name: value})
    assert f"{name}={value!r}" in caught.value.message
    assert caught.value.hint


@pytest.mark.parametrize(
    "given",
    [{"sql": "/a/sql", "/b": "/b"}, ["sql=/a/sql", "/b"], ("sql=/a/sql", "/b")],
)
def test_adapters_are_named_as_sglang_names_them(given: object) -> None:
    args = parse_engine_kwargs({"model_path": "tiny", "lora_paths": given})
    assert args.lora_paths == {"sql": "/a/sql", "/b": "/b"}
    assert args.enable_lora
    assert not parse_engine_kwargs({"model_path": "tiny", "lora_paths": []}).enable_lora


def test_the_hash_model_takes_no_adapters() -> None:
    with pytest.raises(ConfigError, match="no weights to adapt") as caught:
        parse_engine_kwargs({"lora_paths": ["sql=/a/sql"]})
    assert "'tiny'" in str(caught.value.hint)


def test_sizes_that_do_not_go_together() -> None:
    with pytest.raises(ConfigError, match="chunked_prefill_size=40 is no multiple of page_size=16"):
        parse_engine_kwargs({"chunked_prefill_size": 40, "page_size": 16})
    with pytest.raises(ConfigError, match="less than one page"):
        parse_engine_kwargs({"max_total_tokens": 8, "page_size": 16, "chunked_prefill_size": -1})


@pytest.mark.parametrize(
    "kwargs",
    [
        {"max_total_tokens": 99_999_999_999_999},
        {"context_length": 99_999_999_999},
        {"max_running_requests": 999_999_999},
    ],
)
def test_sizes_beyond_the_memory_of_the_machine_are_refused(kwargs: dict[str, int]) -> None:
    ((name, value),) = kwargs.items()
    with pytest.raises(ConfigError, match=rf"\b{name}={value} .* but this machine has") as caught:
        parse_engine_kwargs(kwargs)
    assert "GiB of memory" in caught.value.message
    assert caught.value.hint


def test_the_replicas_need_memory_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory_bounds, "machine_bytes", lambda: 2_000_000)
    assert parse_engine_kwargs({"dp_size": 1}).dp_size == 1
    with pytest.raises(ConfigError, match=r"max_running_requests=16 and context_length=4096"):
        parse_engine_kwargs({"dp_size": 2})


def test_the_number_of_replicas_is_bounded() -> None:
    assert parse_engine_kwargs({"dp_size": 64}).dp_size == 64
    with pytest.raises(ConfigError, match="dp_size=65 is too large") as caught:
        parse_engine_kwargs({"dp_size": 65})
    assert caught.value.hint == "use 64 or less"


@pytest.mark.parametrize("positions", [0, 1, -5, True, 2.5, "x", [], {}, float("nan")])
def test_a_model_with_an_impossible_number_of_positions(tmp_path: Path, positions: object) -> None:
    config = tmp_path / "config.json"
    config.write_text(json.dumps({"max_position_embeddings": positions}))
    with pytest.raises(
        ConfigError, match=r"config\.json: max_position_embeddings=.* is not a whole"
    ):
        parse_engine_kwargs({"model_path": str(tmp_path)})


@pytest.mark.parametrize(
    ("content", "context_length"),
    [
        ("{}", 4096),
        ('{"max_position_embeddings": null}', 4096),
        ('{"max_position_embeddings": 9}', 9),
    ],
)
def test_the_context_is_that_of_the_model(
    tmp_path: Path, content: str, context_length: int
) -> None:
    (tmp_path / "config.json").write_text(content)
    args = parse_engine_kwargs({"model_path": str(tmp_path)})
    assert args.context_length == context_length


def test_a_configuration_that_is_nested_without_end(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("[" * 100_000)
    with pytest.raises(ConfigError, match=r"config\.json is nested too deeply"):
        parse_engine_kwargs({"model_path": str(tmp_path)})
