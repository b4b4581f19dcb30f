"""The decoder-only transformer: one group of lanes through all layers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F

from scripted_reference.models.attention import ContextPlan, HeadMap
from scripted_reference.models.config import TransformerConfig
from scripted_reference.models.kv_storage import LayerKV, PagedKV
from scripted_reference.models.lanes import LANES
from scripted_reference.models.lora import FUSED, LaneAdapter, Linear, add_updates
from scripted_reference.models.rope import rope_tables
from scripted_reference.models.weights import Weights, layer_prefix


class Layer(NamedTuple):
    """The weights of one layer. Matrices are `[in, out]`, those with one input side by side.

    `qk_norm` is `[heads + kv_heads, head_dim]`, the weights of all heads that are normalized.
    """

    input_norm: torch.Tensor
    mlp_norm: torch.Tensor
    qk_norm: torch.Tensor | None
    matrices: dict[Linear, torch.Tensor]
    biases: dict[Linear, torch.Tensor]


class Transformer:
    """A Llama, Qwen2 or Qwen3 in `float32`. Everything in it has `LANES` rows, always.

    Attributes:
        head_map: which key head each query head reads.
    """

    def __init__(
        self,
        config: TransformerConfig,
        weights: Weights,
        *,
        num_positions: int,
        device: torch.device,
        layers: range | None = None,
    ) -> None:
        self._config = config
        self._embedding = weights["model.embed_tokens.weight"].to(device)
        head = "model.embed_tokens" if config.tie_word_embeddings else "lm_head"
        self._head = weights[f"{head}.weight"].t().contiguous().to(device)
        self._final_norm = weights["model.norm.weight"].to(device)
        self._indices = range(config.num_layers) if layers is None else layers
        self._layers = [_layer(config, weights, index, device=device) for index in self._indices]
        cos, sin = rope_tables(config.rope, head_dim=config.head_dim, num_positions=num_positions)
        self._cos = torch.from_numpy(cos).to(device)
        self._sin = torch.from_numpy(sin).to(device)
        self.head_map = HeadMap(
            num_heads=config.num_heads,
            num_kv_heads=config.num_kv_heads,
            head_dim=config.head_dim,
            device=device,
        )
        self._epsilon = torch.full((1, 1), config.rms_norm_eps, device=device)

    def embed(self, tokens: torch.Tensor) -> torch.Tensor:
        """Return the embeddings, `[LANES, hidden]`, for `int64[LANES]`."""
        return self._embedding.index_select(0, tokens)

    def normed(self, x: torch.Tensor) -> torch.Tensor:
        """Return what the last layer made of a token, ready for `logits`."""
        return self._norm(x, self._final_norm)

    def through_layers(
        self,
        x: torch.Tensor,
        positions: torch.Tensor,
        *,
        plan: ContextPlan,
        kv: PagedKV,
        window_plan: ContextPlan | None = None,
        adapters: Sequence[LaneAdapter] = (),
    ) -> torch.Tensor:
        """Write the lanes' KV and return what the layers make of `x`, `[LANES, hidden]` both.

        `positions` is `int64[LANES]`; `window_plan` is that of the layers with a window. `kv` has the
        layers of this object, counted from 0.
        """
        cos = self._cos.index_select(0, positions).unsqueeze(1)
        sin = self._sin.index_select(0, positions).unsqueeze(1)
        for own, (index, layer) in enumerate(zip(self._indices, self._layers, strict=True)):
            normed = self._norm(x, layer.input_norm)
            qkv = _product(normed, layer, index, Linear.QKV, adapters)
            seen = plan if index not in self._config.window_layers else window_plan
            assert seen is not None, "there are layers with a sliding window"
            attended = self._attention(qkv, layer, kv.layer(own), cos, sin, seen)
            x = x + _product(attended, layer, index, Linear.OUTPUT, adapters)
            normed = self._norm(x, layer.mlp_norm)
            gate, up = _product(normed, layer, index, Linear.GATE_UP, adapters).chunk(2, dim=1)
            x = x + _product(F.silu(gate) * up, layer, index, Linear.DOWN, adapters)
        return x

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """Return `[LANES, vocab]` for `[LANES, hidden]`."""
        assert hidden.shape[0] == LANES, "one shape for every product"
        return torch.mm(hidden, self._head)

    def _attention(
        self,
        qkv: torch.Tensor,
        layer: Layer,
        kv: LayerKV,
        cos: torch.Tensor,
        sin: torch.Tensor,
        plan: ContextPlan,
    ) -> torch.Tensor:
        config = self._config
        rotated_heads = config.num_heads + config.num_kv_heads
        heads = qkv[:, : rotated_heads * config.head_dim].view(LANES, rotated_heads, -1)
        source = heads if layer.qk_norm is None else self._norm(heads, layer.qk_norm)
        turned = source.roll(config.head_dim // 2, -1)
        torch.mul(source, cos, out=heads).addcmul_(turned, sin)
        queries, keys = heads[:, : config.num_heads], heads[:, config.num_heads :]
        values = qkv[:, rotated_heads * config.head_dim :]
        plan.store(kv, keys.flatten(start_dim=1), values)
        return plan.attend(queries, kv)

    def _norm(self, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        """Return RMSNorm over the last axis (Zhang and Sennrich, 2019)."""
        length = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
        mean_square = torch.addcmul(self._epsilon, length, length, value=1.0 / x.shape[-1])
        return (x * mean_square.rsqrt_()).mul_(weight)


def _product(
    x: torch.Tensor, layer: Layer, index: int, linear: Linear, adapters: Sequence[LaneAdapter]
) -> torch.Tensor:
    matrix, bias = layer.matrices[linear], layer.biases.get(linear)
    y = torch.mm(x, matrix) if bias is None else torch.addmm(bias, x, matrix)
    return add_updates(y, x, adapters, layer=index, linear=linear) if adapters else y


def _layer(
    config: TransformerConfig, weights: Weights, index: int, *, device: torch.device
) -> Layer:
    prefix = layer_prefix(index)
    matrices: dict[Linear, torch.Tensor] = {}
    biases: dict[Linear, torch.Tensor] = {}
    for linear, names in FUSED.items():
        fused = torch.cat([weights[f"{prefix}{name}.weight"] for name in names])
        matrices[linear] = fused.t().contiguous().to(device)
        found = [weights.get(f"{prefix}{name}.bias") for name in names]
        present = [bias for bias in found if bias is not None]
        if present:
            biases[linear] = torch.cat(present).to(device)
    qk_norm = None
    if config.qk_norm:
        query = weights[f"{prefix}self_attn.q_norm.weight"].expand(config.num_heads, -1)
        key = weights[f"{prefix}self_attn.k_norm.weight"].expand(config.num_kv_heads, -1)
        qk_norm = torch.cat((query, key)).to(device)
    return Layer(
        weights[f"{prefix}input_layernorm.weight"].to(device),
        weights[f"{prefix}post_attention_layernorm.weight"].to(device),
        qk_norm,
        matrices,
        biases,
    )
