"""LoRA adapters (Hu et al., 2021) in PEFT's format: low-rank updates of a layer's projections."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Any, Final, NamedTuple

import torch
from scripted_registry.errors import ConfigError

from scripted_reference.models.config import TransformerConfig
from scripted_reference.models.folder import read_json
from scripted_reference.models.weights import projection_shapes, read_safetensors

_CONFIG_FILE: Final = "adapter_config.json"
_WEIGHTS_FILE: Final = "adapter_model.safetensors"
_TENSOR_NAME: Final = re.compile(
    r"base_model\.model\.model\.layers\.(\d+)\.(.+)\.lora_([AB])\.weight"
)


class Linear(StrEnum):
    """The matrix products of a layer; projections that read the same input are one product."""

    QKV = "qkv"
    OUTPUT = "output"
    GATE_UP = "gate_up"
    DOWN = "down"


FUSED: Final[Mapping[Linear, tuple[str, ...]]] = {
    Linear.QKV: ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    Linear.OUTPUT: ("self_attn.o_proj",),
    Linear.GATE_UP: ("mlp.gate_proj", "mlp.up_proj"),
    Linear.DOWN: ("mlp.down_proj",),
}
"""Which projections each product consists of, in the order of its output features."""


class LowRank(NamedTuple):
    """An update of one product: `x @ down @ up`, `[in, r]` and (scaled) `[r, out]`."""

    down: torch.Tensor
    up: torch.Tensor


class LoraAdapter(NamedTuple):
    """An adapter: its updates by layer and product; a product that it leaves alone has none."""

    updates: Mapping[tuple[int, Linear], LowRank]


class LaneAdapter(NamedTuple):
    """An adapter in a group, and the lanes that asked for it, `bool[LANES, 1]`."""

    adapter: LoraAdapter
    lanes: torch.Tensor


def add_updates(
    y: torch.Tensor,
    x: torch.Tensor,
    adapters: Sequence[LaneAdapter],
    *,
    layer: int,
    linear: Linear,
) -> torch.Tensor:
    """Return `y` with the updates for `x` in the lanes that asked for them.

    Every lane computes them, since kernels have to see one shape, and the others throw them away.
    """
    for adapter, lanes in adapters:
        update = adapter.updates.get((layer, linear))
        if update is not None:
            y = torch.where(lanes, y + (x @ update.down) @ update.up, y)
    return y


def load_adapter(
    folder: Path, *, name: str, config: TransformerConfig, device: torch.device
) -> LoraAdapter:
    """Read an adapter. `ConfigError` when it is missing, damaged, or not for this model."""
    if not folder.is_dir():
        raise ConfigError(
            f"the LoRA adapter {name!r} is to be in {folder}, which is no folder",
            hint="give a folder in PEFT format",
        )
    files = [folder / _CONFIG_FILE, folder / _WEIGHTS_FILE]
    for file in files:
        if not file.is_file():
            raise ConfigError(
                f"the LoRA adapter {name!r} in {folder} has no {file.name}",
                hint="save it with PEFT's save_pretrained",
            )
    rank, scale = _read_rank(files[0])
    parts = _read_parts(files[1], config=config, rank=rank)
    updates: dict[tuple[int, Linear], LowRank] = {}
    shapes = projection_shapes(config)
    for layer in range(config.num_layers):
        for linear, names in FUSED.items():
            present = [(part, parts.get((layer, part))) for part in names]
            if any(pair is not None for _, pair in present):
                updates[layer, linear] = _fuse(present, shapes, scale=scale, device=device)
    return LoraAdapter(updates)


def _read_rank(file: Path) -> tuple[int, float]:
    raw = read_json(file)
    refused: dict[str, Any] = {
        "peft_type": raw.get("peft_type", "LORA") != "LORA",
        "use_dora": bool(raw.get("use_dora")),
        "bias": raw.get("bias", "none") != "none",
        "modules_to_save": bool(raw.get("modules_to_save")),
        "rank_pattern": bool(raw.get("rank_pattern")),
        "alpha_pattern": bool(raw.get("alpha_pattern")),
    }
    for key, is_wrong in refused.items():
        if is_wrong:
            raise ConfigError(
                f"{file}: {key}={raw[key]!r} is not implemented in the reference engine",
                hint="use a plain LoRA adapter of the attention and MLP projections",
            )
    rank, alpha = raw.get("r"), raw.get("lora_alpha")
    if isinstance(rank, bool) or not isinstance(rank, int) or rank < 1:
        raise ConfigError(f"{file}: r={rank!r} is not a positive integer", hint="repair the file")
    if isinstance(alpha, bool) or not isinstance(alpha, int | float):
        raise ConfigError(f"{file}: lora_alpha={alpha!r} is not a number", hint="repair the file")
    return rank, alpha / (math.sqrt(rank) if raw.get("use_rslora") else rank)


_Pair = tuple[torch.Tensor, torch.Tensor]


def _read_parts(
    file: Path, *, config: TransformerConfig, rank: int
) -> dict[tuple[int, str], _Pair]:
    """Return A `[r, in]` and B `[out, r]` by layer and projection."""
    shapes = projection_shapes(config)
    halves: dict[tuple[int, str, str], torch.Tensor] = {}
    for name, tensor in read_safetensors(file).items():
        match = _TENSOR_NAME.fullmatch(name)
        if match is None or match[2] not in shapes or int(match[1]) >= config.num_layers:
            raise ConfigError(
                f"{file} has the tensor {name}, which adapts nothing that this model has",
                hint=f"adapters are for {', '.join(shapes)} of {config.num_layers} layers",
            )
        (out_size, in_size), _ = shapes[match[2]]
        wanted = (rank, in_size) if match[3] == "A" else (out_size, rank)
        if tuple(tensor.shape) != wanted:
            raise ConfigError(
                f"{file}: the tensor {name} has the shape {'x'.join(map(str, tensor.shape))}, "
                f"but r={rank} and {config.file} ask for {wanted[0]}x{wanted[1]}",
                hint="the adapter is of another model or rank",
            )
        halves[int(match[1]), match[2], match[3]] = tensor.to(torch.float32)
    pairs: dict[tuple[int, str], _Pair] = {}
    for layer, projection, half in halves:
        other = "B" if half == "A" else "A"
        if (layer, projection, other) not in halves:
            raise ConfigError(
                f"{file} has lora_{half} but not lora_{other} of {projection} in layer {layer}",
                hint="save the adapter again",
            )
        pairs[layer, projection] = (
            halves[layer, projection, "A"],
            halves[layer, projection, "B"],
        )
    if not pairs:
        raise ConfigError(f"{file} has no tensors", hint="save the adapter again")
    return pairs


def _fuse(
    parts: Sequence[tuple[str, _Pair | None]],
    shapes: Mapping[str, tuple[tuple[int, ...], bool]],
    *,
    scale: float,
    device: torch.device,
) -> LowRank:
    """Make one update of those of the parts: their A side by side, their B block by block."""
    downs: list[torch.Tensor] = []
    blocks: list[torch.Tensor] = []
    for name, pair in parts:
        if pair is None:
            blocks.append(torch.zeros(0, shapes[name][0][0]))
        else:
            downs.append(pair[0].t())
            blocks.append(pair[1].t() * scale)
    return LowRank(
        torch.cat(downs, dim=1).contiguous().to(device), torch.block_diag(*blocks).to(device)
    )
