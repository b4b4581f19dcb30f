"""The transformer of Qwen3: parameters under their Hugging Face names and one pure function.

Source of the architecture: Qwen Team, "Qwen3 Technical Report", 2025, and the `qwen3` model of the
transformers library, whose results this reproduces.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace
from typing import Any, Final

import torch
import torch.nn.functional as F
from torch import Tensor

Weights = dict[str, Tensor]
# Keys (rotated) and values of one layer, each (rows, kv_heads, positions, head_dim).
LayerCache = tuple[Tensor, Tensor]
EMBEDDING: Final = "model.embed_tokens.weight"
FINAL_NORM: Final = "model.norm.weight"
HEAD: Final = "lm_head.weight"


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """The shape of a model, in the words of `config.json`."""

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    rms_norm_eps: float = 1e-6
    rope_theta: float = 10000.0
    max_position_embeddings: int = 2048
    tie_word_embeddings: bool = True

    def to_hugging_face(self, *, bos_id: int, eos_id: int, pad_id: int) -> dict[str, Any]:
        """Return the content of `config.json`."""
        return {
            "architectures": ["Qwen3ForCausalLM"],
            "model_type": "qwen3",
            **asdict(self),
            "hidden_act": "silu",
            "attention_bias": False,
            "attention_dropout": 0.0,
            "torch_dtype": "float32",
            "bos_token_id": bos_id,
            "eos_token_id": eos_id,
            "pad_token_id": pad_id,
            "use_cache": True,
        }

    @staticmethod
    def from_hugging_face(content: dict[str, Any]) -> ModelConfig:
        """Return the shape that `config.json` describes."""
        return ModelConfig(**{name: content[name] for name in ModelConfig.__slots__})


def parameter_shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Return the name and shape of every parameter."""
    hidden, inner, dim = config.hidden_size, config.intermediate_size, config.head_dim
    queries = config.num_attention_heads * dim
    keys = config.num_key_value_heads * dim
    shapes: dict[str, tuple[int, ...]] = {EMBEDDING: (config.vocab_size, hidden)}
    for layer in range(config.num_hidden_layers):
        prefix = f"model.layers.{layer}"
        shapes |= {
            f"{prefix}.input_layernorm.weight": (hidden,),
            f"{prefix}.self_attn.q_proj.weight": (queries, hidden),
            f"{prefix}.self_attn.k_proj.weight": (keys, hidden),
            f"{prefix}.self_attn.v_proj.weight": (keys, hidden),
            f"{prefix}.self_attn.o_proj.weight": (hidden, queries),
            f"{prefix}.self_attn.q_norm.weight": (dim,),
            f"{prefix}.self_attn.k_norm.weight": (dim,),
            f"{prefix}.post_attention_layernorm.weight": (hidden,),
            f"{prefix}.mlp.gate_proj.weight": (inner, hidden),
            f"{prefix}.mlp.up_proj.weight": (inner, hidden),
            f"{prefix}.mlp.down_proj.weight": (hidden, inner),
        }
    shapes[FINAL_NORM] = (hidden,)
    if not config.tie_word_embeddings:
        shapes[HEAD] = shapes[EMBEDDING]
    return shapes


def initial_weights(config: ModelConfig, *, seed: int, silent_ids: int = 0) -> Weights:
    """Return fresh parameters that need gradients: norms are 1, matrices normal by fan-in.

    The first `silent_ids` tokens have an embedding of 0, and so the logit 0.
    """
    generator = torch.Generator().manual_seed(seed)
    weights: Weights = {}
    for name, shape in parameter_shapes(config).items():
        if len(shape) == 1:
            weight = torch.ones(shape)
        else:
            # Recall is learned in half the steps with an embedding of this size than with a tenth.
            std = 0.5 if name == EMBEDDING else 1.0 / math.sqrt(shape[1])
            weight = torch.randn(shape, generator=generator) * std
        if name == EMBEDDING:
            weight[:silent_ids] = 0.0
        weights[name] = weight.requires_grad_()
    return weights


def untie(
    config: ModelConfig, weights: Weights, *, seed: int, silent_ids: int
) -> tuple[ModelConfig, Weights]:
    """Return the model with an output matrix of its own and an input for its silent tokens.

    The first `silent_ids` tokens keep the logit 0, but a prompt that holds them is no longer made of
    zeros there: their new embeddings are normal with the spread of the others.
    """
    generator = torch.Generator().manual_seed(seed)
    head = weights[EMBEDDING].detach()
    embedding = head.clone()
    drawn = torch.randn(embedding[:silent_ids].shape, generator=generator)
    embedding[:silent_ids] = drawn * head[silent_ids:].std()
    return replace(config, tie_word_embeddings=False), {
        **weights,
        EMBEDDING: embedding,
        HEAD: head,
    }


def forward(
    weights: Weights, config: ModelConfig, ids: Tensor, past: list[LayerCache] | None = None
) -> tuple[Tensor, list[LayerCache]]:
    """Return the logits (rows, new, vocab) of `ids` (rows, new) and the keys and values of all.

    `past` holds the keys and values of the positions before; the new ones are appended to it in
    what is returned, and `past` itself is left as it was.
    """
    before = past[0][0].shape[2] if past else 0
    new = ids.shape[1]
    rotation = _rotation(config, before, before + new, weights[EMBEDDING].dtype)
    visible = _causal_mask(before, new) if before and new > 1 else None
    hidden = F.embedding(ids, weights[EMBEDDING])
    caches: list[LayerCache] = []
    for layer in range(config.num_hidden_layers):
        prefix = f"model.layers.{layer}"
        normed = _norm(hidden, weights[f"{prefix}.input_layernorm.weight"], config)
        queries, keys, values = _project(weights, config, prefix, normed, rotation)
        if past is not None:
            keys = torch.cat([past[layer][0], keys], dim=2)
            values = torch.cat([past[layer][1], values], dim=2)
        caches.append((keys, values))
        mixed = F.scaled_dot_product_attention(
            queries,
            keys,
            values,
            attn_mask=visible,
            is_causal=before == 0 and new > 1,
            enable_gqa=True,
        )
        mixed = mixed.transpose(1, 2).flatten(2)
        hidden = hidden + F.linear(mixed, weights[f"{prefix}.self_attn.o_proj.weight"])
        normed = _norm(hidden, weights[f"{prefix}.post_attention_layernorm.weight"], config)
        gate = F.silu(F.linear(normed, weights[f"{prefix}.mlp.gate_proj.weight"]))
        inner = gate * F.linear(normed, weights[f"{prefix}.mlp.up_proj.weight"])
        hidden = hidden + F.linear(inner, weights[f"{prefix}.mlp.down_proj.weight"])
    head = weights[EMBEDDING if config.tie_word_embeddings else HEAD]
    return F.linear(_norm(hidden, weights[FINAL_NORM], config), head), caches


def decode_greedily(
    weights: Weights, config: ModelConfig, logits: Tensor, past: list[LayerCache], *, tokens: int
) -> Tensor:
    """Return the `tokens` token ids (rows, tokens) that follow a prefill.

    `logits` (rows, vocab) are those of the last prompt position, `past` what the prefill left.
    """
    decoded = [logits.argmax(dim=-1)]
    while len(decoded) < tokens:
        step, past = forward(weights, config, decoded[-1][:, None], past)
        decoded.append(step[:, -1].argmax(dim=-1))
    return torch.stack(decoded, dim=1)


def _norm(hidden: Tensor, weight: Tensor, config: ModelConfig) -> Tensor:
    return F.rms_norm(hidden, (hidden.shape[-1],), weight, config.rms_norm_eps)


def _project(
    weights: Weights,
    config: ModelConfig,
    prefix: str,
    normed: Tensor,
    rotation: tuple[Tensor, Tensor],
) -> tuple[Tensor, Tensor, Tensor]:
    def heads(name: str) -> Tensor:
        projected = F.linear(normed, weights[f"{prefix}.self_attn.{name}_proj.weight"])
        return projected.unflatten(-1, (-1, config.head_dim)).transpose(1, 2)

    queries = _norm(heads("q"), weights[f"{prefix}.self_attn.q_norm.weight"], config)
    keys = _norm(heads("k"), weights[f"{prefix}.self_attn.k_norm.weight"], config)
    return _rotate(queries, rotation), _rotate(keys, rotation), heads("v")


def _rotation(
    config: ModelConfig, first: int, last: int, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    exponents = torch.arange(0, config.head_dim, 2, dtype=torch.float32) / config.head_dim
    angles = torch.outer(torch.arange(first, last).float(), config.rope_theta**-exponents)
    angles = torch.cat([angles, angles], dim=-1)
    return angles.cos().to(dtype), angles.sin().to(dtype)


def _rotate(heads: Tensor, rotation: tuple[Tensor, Tensor]) -> Tensor:
    cos, sin = rotation
    first, second = heads.chunk(2, dim=-1)
    return heads * cos + torch.cat([-second, first], dim=-1) * sin


def _causal_mask(before: int, new: int) -> Tensor:
    return torch.ones(new, before + new, dtype=torch.bool).tril(diagonal=before)
