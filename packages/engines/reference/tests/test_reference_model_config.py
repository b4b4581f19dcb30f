"""Values in `config.json` that no model can have are refused with the file and the field."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from scripted_reference.models.config import NO_EOS_TOKEN, TransformerConfig, read_config
from scripted_registry.ci import register_cpu_ci
from scripted_registry.errors import ConfigError

register_cpu_ci(est_time=1, stage="reference", runner_config="cpu")

CONFIG = {
    "architectures": ["Qwen3ForCausalLM"],
    "vocab_size": 301,
    "hidden_size": 48,
    "intermediate_size": 92,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
}


def _read(folder: Path, **changes: Any) -> TransformerConfig:
    (folder / "config.json").write_text(json.dumps({**CONFIG, **changes}))
    return read_config(folder)


@pytest.mark.parametrize(
    "field",
    [
        "vocab_size",
        "hidden_size",
        "intermediate_size",
        "num_hidden_layers",
        "num_attention_heads",
        "num_key_value_heads",
        "head_dim",
    ],
)
def test_sizes_that_no_model_has(tmp_path: Path, field: str) -> None:
    message = rf"config\.json: {field}={10**18} is more than any model has"
    with pytest.raises(ConfigError, match=message) as error:
        _read(tmp_path, **{field: 10**18})
    assert str(error.value.hint).startswith("use ")


@pytest.mark.parametrize("value", ["x", [], {}, [7, "x"], [[7]], True, -1, 2.0])
def test_what_is_no_end_of_sequence_token(tmp_path: Path, value: object) -> None:
    with pytest.raises(ConfigError, match=r"/config\.json: eos_token_id=.* is no token id"):
        _read(tmp_path, eos_token_id=value)
    # The other file has precedence, which is no reason to overlook this one.
    (tmp_path / "generation_config.json").write_text('{"eos_token_id": 9}')
    with pytest.raises(ConfigError, match=r"/config\.json: eos_token_id="):
        _read(tmp_path, eos_token_id=value)
    (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": value}))
    with pytest.raises(ConfigError, match=r"generation_config\.json: eos_token_id="):
        _read(tmp_path, eos_token_id=2)


@pytest.mark.parametrize(("value", "token"), [(None, NO_EOS_TOKEN), (0, 0), ([7, 8], 7)])
def test_end_of_sequence_tokens(tmp_path: Path, value: object, token: int) -> None:
    assert _read(tmp_path, eos_token_id=value).eos_token_id == token


@pytest.mark.parametrize("value", [0, [], {}, "x", False, float("nan"), float("inf"), 10**400])
def test_what_is_no_rope_theta(tmp_path: Path, value: object) -> None:
    for changes in ({"rope_theta": value}, {"rope_parameters": {"rope_theta": value}}):
        with pytest.raises(ConfigError, match=r"config\.json: rope_theta=.* is not a positive"):
            _read(tmp_path, **changes)


def test_the_rope_theta_may_be_left_out(tmp_path: Path) -> None:
    assert _read(tmp_path).rope.theta == 10_000.0
    assert _read(tmp_path, rope_theta=None, rope_parameters={}).rope.theta == 10_000.0
    assert _read(tmp_path, rope_theta=500, rope_scaling=None).rope.theta == 500.0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rope_parameters": []}, r"rope_parameters=\[\] is no object"),
        ({"rope_scaling": 0}, "rope_scaling=0 is no object"),
        ({"layer_types": 5}, "layer_types=5 is not implemented"),
        ({"rms_norm_eps": float("inf")}, "rms_norm_eps=inf is not a positive number"),
    ],
)
def test_values_of_the_wrong_kind(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        _read(tmp_path, **changes)
