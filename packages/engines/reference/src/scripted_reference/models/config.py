"""What the engine reads of a model's `config.json`: the shape of a Llama, Qwen2 or Qwen3."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, Final

from scripted_registry.errors import ConfigError

from scripted_reference.models.folder import is_positive_number, read_json
from scripted_reference.models.rope import RopeParameters, read_rope
from scripted_reference.models.window_layers import read_windows

CONFIG_FILE: Final = "config.json"

NO_EOS_TOKEN: Final = -1
"""Stands for the end-of-sequence token of a model that has none: no token is equal to it."""

_DIMENSION_MULTIPLE: Final = 4

_MOST: Final[Mapping[str, int]] = {
    # Several times what any published model has, and little enough to count tensors at once.
    "vocab_size": 1 << 22,
    "hidden_size": 1 << 17,
    "intermediate_size": 1 << 20,
    "num_hidden_layers": 1 << 10,
    "num_attention_heads": 1 << 12,
    "num_key_value_heads": 1 << 12,
    "head_dim": 1 << 14,
}


class Architecture(StrEnum):
    """The model classes of `transformers` whose checkpoints can be read."""

    LLAMA = "LlamaForCausalLM"
    QWEN2 = "Qwen2ForCausalLM"
    QWEN3 = "Qwen3ForCausalLM"


@dataclass(frozen=True, slots=True, kw_only=True)
class TransformerConfig:
    """The shape of a decoder-only transformer.

    Attributes:
        file: the `config.json` that it was read from, for messages.
        rms_norm_eps: is added to the mean square before the root.
        qkv_bias: whether the query, key and value projections have a bias.
        output_bias: whether the attention's output projection has one.
        mlp_bias: whether the three projections of the MLP have one.
        qk_norm: whether each head's query and key are normalized, as in Qwen3.
        tie_word_embeddings: whether the output matrix is the embedding matrix.
        sliding_window: tokens that a layer with a window sees, the newest included; `None` without such.
        window_layers: the indices of the layers that have one.
        eos_token_id: the end-of-sequence token, or `NO_EOS_TOKEN`.
    """

    file: Path
    architecture: Architecture
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    rms_norm_eps: float
    rope: RopeParameters
    qkv_bias: bool
    output_bias: bool
    mlp_bias: bool
    qk_norm: bool
    tie_word_embeddings: bool
    eos_token_id: int
    sliding_window: int | None = None
    window_layers: frozenset[int] = frozenset()

    @property
    def qkv_size(self) -> int:
        """Features of all queries, keys and values of one token."""
        return (self.num_heads + 2 * self.num_kv_heads) * self.head_dim


def read_config(folder: Path, *, overrides: Mapping[str, Any] | None = None) -> TransformerConfig:
    """Read `config.json`, and the end-of-sequence token also from `generation_config.json`.

    What is in `overrides` replaces what is in the file. Raises `ConfigError` for a missing or malformed
    file, for another architecture, and for a feature that would change the results and is not
    implemented.
    """
    file = folder / CONFIG_FILE
    if not file.is_file():
        raise ConfigError(
            f"{folder} has no {CONFIG_FILE}",
            hint="give the folder that holds the model's config.json and *.safetensors",
        )
    raw = {**read_json(file), **(overrides or {})}
    architecture = _architecture(raw, file)
    _refuse_unknown_features(raw, file)
    heads = _size(raw, "num_attention_heads", file)
    hidden_size = _size(raw, "hidden_size", file, multiple=_DIMENSION_MULTIPLE)
    attention_bias = _flag(raw, "attention_bias", file)
    qwen2 = architecture is Architecture.QWEN2
    num_layers = _size(raw, "num_hidden_layers", file)
    window, window_layers = read_windows(raw, file, num_layers=num_layers)
    config = TransformerConfig(
        file=file,
        architecture=architecture,
        vocab_size=_size(raw, "vocab_size", file),
        hidden_size=hidden_size,
        intermediate_size=_size(raw, "intermediate_size", file, multiple=_DIMENSION_MULTIPLE),
        num_layers=num_layers,
        num_heads=heads,
        num_kv_heads=_size(raw, "num_key_value_heads", file, default=heads),
        head_dim=_size(
            raw, "head_dim", file, default=hidden_size // heads, multiple=_DIMENSION_MULTIPLE
        ),
        rms_norm_eps=_number(raw, "rms_norm_eps", file, default=1e-6),
        rope=read_rope(raw, file),
        qkv_bias=qwen2 or attention_bias,
        output_bias=attention_bias and not qwen2,
        mlp_bias=architecture is Architecture.LLAMA and _flag(raw, "mlp_bias", file),
        qk_norm=architecture is Architecture.QWEN3,
        tie_word_embeddings=_flag(raw, "tie_word_embeddings", file),
        eos_token_id=_eos_token_id(raw, folder),
        sliding_window=window,
        window_layers=window_layers,
    )
    if config.num_heads % config.num_kv_heads:
        raise ConfigError(
            f"{file}: num_attention_heads={config.num_heads} is no multiple of "
            f"num_key_value_heads={config.num_kv_heads}",
            hint="each key/value head serves the same number of query heads",
        )
    return config


def _architecture(raw: Mapping[str, Any], file: Path) -> Architecture:
    names = raw.get("architectures") or []
    for name in names if isinstance(names, list) else [names]:
        if name in tuple(Architecture):
            return Architecture(name)
    known = ", ".join(architecture.value for architecture in Architecture)
    raise ConfigError(
        f"{file}: the architecture {names!r} is not one that the reference engine has",
        hint=f"use a model of one of these: {known}",
    )


def _refuse_unknown_features(raw: Mapping[str, Any], file: Path) -> None:
    wrong = {
        "hidden_act": raw.get("hidden_act", "silu") != "silu",
        "quantization_config": raw.get("quantization_config") is not None,
        "partial_rotary_factor": raw.get("partial_rotary_factor", 1.0) != 1.0,
    }
    for key, is_wrong in wrong.items():
        if is_wrong:
            raise ConfigError(
                f"{file}: {key}={raw[key]!r} is not implemented in the reference engine",
                hint="use a model with SiLU and unquantized weights",
            )


def _eos_token_id(raw: Mapping[str, Any], folder: Path) -> int:
    generation_file = folder / "generation_config.json"
    generation = read_json(generation_file) if generation_file.is_file() else {}
    # Both are checked, although the first that has one decides.
    found = (
        _first_token(generation, "eos_token_id", generation_file),
        _first_token(raw, "eos_token_id", folder / CONFIG_FILE),
    )
    return next((token for token in found if token is not None), NO_EOS_TOKEN)


def _first_token(raw: Mapping[str, Any], key: str, file: Path) -> int | None:
    """Return a token id, or the first of a list of them; `None` if there is none."""
    value = raw.get(key)
    if value is None:
        return None
    tokens = value if isinstance(value, list) else [value]
    if not tokens or any(
        isinstance(token, bool) or not isinstance(token, int) or token < 0 for token in tokens
    ):
        raise ConfigError(
            f"{file}: {key}={value!r} is no token id",
            hint="use a number from 0 on, a list of such, or null",
        )
    return int(tokens[0])


def _size(
    raw: Mapping[str, Any], key: str, file: Path, *, default: int | None = None, multiple: int = 1
) -> int:
    value = raw.get(key)
    if value is None:
        value = default
    if value is None:
        raise ConfigError(f"{file} has no {key}", hint="it is needed; copy the model again")
    if isinstance(value, bool) or not isinstance(value, int) or value < 1 or value % multiple:
        wanted = "a positive integer" if multiple == 1 else f"a positive multiple of {multiple}"
        raise ConfigError(f"{file}: {key}={value!r} is not {wanted}", hint=f"use {wanted}")
    if value > _MOST[key]:
        raise ConfigError(
            f"{file}: {key}={value} is more than any model has",
            hint=f"use {_MOST[key]} or less; copy the model again if it should be",
        )
    return value


def _number(raw: Mapping[str, Any], key: str, file: Path, *, default: float) -> float:
    value = raw.get(key, default)
    if not is_positive_number(value):
        raise ConfigError(
            f"{file}: {key}={value!r} is not a positive number", hint="use a positive number"
        )
    return float(value)


def _flag(raw: Mapping[str, Any], key: str, file: Path) -> bool:
    value = raw.get(key, False)
    if not isinstance(value, bool):
        raise ConfigError(f"{file}: {key}={value!r} is not a bool", hint="use true or false")
    return value
