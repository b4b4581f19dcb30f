"""The tensors of a checkpoint, by their Hugging Face names: read, checked, or drawn from a seed."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final

import torch
from scripted_registry.errors import ConfigError

from scripted_reference.models.config import TransformerConfig
from scripted_reference.models.folder import read_json

Shape = tuple[int, ...]
Weights = dict[str, torch.Tensor]

_INDEX_FILE: Final = "model.safetensors.index.json"
_IGNORED_SUFFIX: Final = "rotary_emb.inv_freq"  # a buffer that old checkpoints saved
_NAMED_AT_MOST: Final = 5


def layer_prefix(layer: int) -> str:
    """Return what the names of a layer's tensors begin with."""
    return f"model.layers.{layer}."


def projection_shapes(config: TransformerConfig) -> dict[str, tuple[Shape, bool]]:
    """Return shape `(out, in)` and presence of a bias of each projection of a layer, by name."""
    hidden, inner = config.hidden_size, config.intermediate_size
    query = config.num_heads * config.head_dim
    key = config.num_kv_heads * config.head_dim
    return {
        "self_attn.q_proj": ((query, hidden), config.qkv_bias),
        "self_attn.k_proj": ((key, hidden), config.qkv_bias),
        "self_attn.v_proj": ((key, hidden), config.qkv_bias),
        "self_attn.o_proj": ((hidden, query), config.output_bias),
        "mlp.gate_proj": ((inner, hidden), config.mlp_bias),
        "mlp.up_proj": ((inner, hidden), config.mlp_bias),
        "mlp.down_proj": ((hidden, inner), config.mlp_bias),
    }


def expected_shapes(config: TransformerConfig) -> dict[str, Shape]:
    """Return the shape of every tensor that the model has, by name."""
    hidden = config.hidden_size
    shapes: dict[str, Shape] = {
        "model.embed_tokens.weight": (config.vocab_size, hidden),
        "model.norm.weight": (hidden,),
    }
    if not config.tie_word_embeddings:
        shapes["lm_head.weight"] = (config.vocab_size, hidden)
    for layer in range(config.num_layers):
        prefix = layer_prefix(layer)
        shapes[f"{prefix}input_layernorm.weight"] = (hidden,)
        shapes[f"{prefix}post_attention_layernorm.weight"] = (hidden,)
        if config.qk_norm:
            shapes[f"{prefix}self_attn.q_norm.weight"] = (config.head_dim,)
            shapes[f"{prefix}self_attn.k_norm.weight"] = (config.head_dim,)
        for name, (shape, has_bias) in projection_shapes(config).items():
            shapes[f"{prefix}{name}.weight"] = shape
            if has_bias:
                shapes[f"{prefix}{name}.bias"] = shape[:1]
    return shapes


def load_weights(folder: Path, config: TransformerConfig) -> Weights:
    """Read all tensors of a folder as `float32` on the CPU.

    Raises `ConfigError` when there are none, when a file cannot be read, and for a tensor that is
    missing, not the model's, or of another shape.
    """
    expected = expected_shapes(config)
    weights: Weights = {}
    for file in _weight_files(folder):
        for name, tensor in read_safetensors(file).items():
            if name.endswith(_IGNORED_SUFFIX):
                continue
            if name == "lm_head.weight" and config.tie_word_embeddings:
                continue  # some exporters write the shared matrix twice
            if name not in expected:
                raise ConfigError(
                    f"{file} has the tensor {name}, which {config.file} does not provide for",
                    hint="weights and config.json are of different models",
                )
            if tuple(tensor.shape) != expected[name]:
                raise ConfigError(
                    f"{file}: the tensor {name} has the shape {_shown(tensor.shape)}, "
                    f"but {config.file} asks for {_shown(expected[name])}",
                    hint="weights and config.json are of different models",
                )
            weights[name] = tensor.to(torch.float32)
    missing = [name for name in expected if name not in weights]
    if missing:
        more = f" and {len(missing) - _NAMED_AT_MOST} more" if len(missing) > _NAMED_AT_MOST else ""
        raise ConfigError(
            f"the weights in {folder} lack {', '.join(missing[:_NAMED_AT_MOST])}{more}",
            hint="the checkpoint is incomplete, or config.json is of another model",
        )
    return weights


def dummy_weights(config: TransformerConfig, *, seed: int) -> Weights:
    """Draw weights from a seed; each tensor depends on the seed and its own name only.

    Matrices keep the variance of what goes through them, so that the output depends on the whole
    context; norms are ones.
    """
    weights: Weights = {}
    for name, shape in expected_shapes(config).items():
        if name.endswith("norm.weight"):
            weights[name] = torch.ones(shape)
            continue
        digest = hashlib.sha256(f"{seed}/{name}".encode()).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)
        # An embedding matrix that is the output matrix, too, must not favour the token that it was fed.
        keeps_variance = name.startswith("model.embed") and not config.tie_word_embeddings
        std = 1.0 if keeps_variance else 1.0 / math.sqrt(shape[-1])
        weights[name] = torch.randn(shape, generator=generator) * std
    return weights


def read_safetensors(file: Path) -> Mapping[str, torch.Tensor]:
    """Return the tensors of one file; `ConfigError` when it is damaged or cannot be read."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        tensors: Mapping[str, torch.Tensor] = load_file(file)
    except (OSError, SafetensorError) as error:
        raise ConfigError(
            f"{file} cannot be read as safetensors: {error}",
            hint="copy the file again; it may be cut off, or a pointer of Git LFS",
        ) from error
    return tensors


def _weight_files(folder: Path) -> Iterable[Path]:
    index = folder / _INDEX_FILE
    if not index.is_file():
        files = sorted(folder.glob("*.safetensors"))
        if not files:
            raise ConfigError(
                f"{folder} has no weights (*.safetensors)",
                hint='load_format="dummy" draws random weights from random_seed',
            )
        return files
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise ConfigError(f"{index} has no weight_map", hint="copy the model again")
    files = [folder / str(name) for name in sorted(set(weight_map.values()))]
    for file in files:
        if not file.is_file():
            raise ConfigError(
                f"{index} names {file.name}, which is not there", hint="copy the missing file"
            )
    return files


def _shown(shape: Iterable[int]) -> str:
    return "x".join(map(str, shape))
