"""The transformer as a model of the engine: from a batch to its next tokens and log probabilities."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from scripted_registry.errors import ConfigError

from scripted_reference.hybrid_memory import WindowStorage
from scripted_reference.memory import IntArray, ReqToTokenPool
from scripted_reference.memory_bounds import check_fits
from scripted_reference.models.attention import Contexts
from scripted_reference.models.base import BatchResult
from scripted_reference.models.config import TransformerConfig, read_config
from scripted_reference.models.device import one_thread, open_device
from scripted_reference.models.kv_storage import PagedKV
from scripted_reference.models.lanes import LANES, Lanes, lay_out
from scripted_reference.models.lora import LaneAdapter, LoraAdapter, load_adapter
from scripted_reference.models.readout import Readout
from scripted_reference.models.transformer import Transformer
from scripted_reference.models.weights import Weights, dummy_weights, expected_shapes, load_weights
from scripted_reference.pp.stage import Hidden, Stage
from scripted_reference.request import Req
from scripted_reference.schedule_batch import ScheduleBatch

_FLOAT_BYTES: Final = 4


class TransformerModel:
    """A transformer, its paged KV storage and its LoRA adapters.

    Attributes:
        config: its shape.
        kv: its KV storage; `kv.read(slot)` and `kv.write(slot, values)` are for tests, too.
    """

    def __init__(
        self,
        config: TransformerConfig,
        weights: Weights,
        *,
        req_to_token_pool: ReqToTokenPool,
        num_slots: int,
        device: torch.device,
        seed: int = 0,
        adapters: Mapping[str, LoraAdapter] | None = None,
        window: WindowStorage | None = None,
        stage: Stage | None = None,
    ) -> None:
        self.config = config
        self._stage = stage or Stage(0, 1)
        layers = self._stage.layers(config.num_layers)
        self.kv = PagedKV(
            num_layers=len(layers),
            num_slots=num_slots,
            num_kv_heads=config.num_kv_heads,
            head_dim=config.head_dim,
            device=device,
            window=window,
            window_layers=config.window_layers,
        )
        self._transformer = Transformer(
            config,
            weights,
            num_positions=req_to_token_pool.max_context_len,
            device=device,
            layers=layers,
        )
        self._contexts = Contexts(
            req_to_token_pool, heads=self._transformer.head_map, device=device, window=window
        )
        self._device = device
        self._seed = seed
        self._adapters = dict(adapters or {})

    @property
    def vocab_size(self) -> int:
        """Token ids are below it."""
        return self.config.vocab_size

    @property
    def eos_token_id(self) -> int:
        """The end-of-sequence token; `NO_EOS_TOKEN` if the model has none."""
        return self.config.eos_token_id

    @property
    def supports_logprobs(self) -> bool:
        """A softmax has probabilities."""
        return True

    @property
    def lora_names(self) -> frozenset[str]:
        """The adapters that a request may name."""
        return frozenset(self._adapters)

    def forward(self, batch: ScheduleBatch) -> BatchResult:
        """Compute a prepared batch."""
        result = self.forward_stage(batch, None)
        assert isinstance(result, BatchResult), "a model in one piece has a result"
        return result

    def forward_stage(self, batch: ScheduleBatch, hidden: Hidden) -> Hidden | BatchResult:
        """Compute a batch from `float32[groups, LANES, hidden]`, or on the first stage from `None`."""
        with torch.inference_mode(), one_thread():
            layout = lay_out(batch)
            before = None if hidden is None else torch.as_tensor(hidden, device=self._device)
            states = torch.stack(
                [
                    self._through_layers(group, batch.reqs, None if before is None else before[i])
                    for i, group in enumerate(layout.lanes.groups())
                ]
            )
            if not self._stage.is_last:
                return states
            states = torch.cat([self._transformer.normed(group) for group in states])
            readout = Readout(batch, layout, engine_seed=self._seed)
            wanted = layout.logit_lanes()
            for start in range(0, len(wanted), LANES):
                lanes = wanted[start : start + LANES]
                readout.add(lanes, self._logits(states, lanes))
            return readout.result()

    def logits(self, batch: ScheduleBatch) -> torch.Tensor:
        """Compute a prepared batch and return the logits of all its tokens, `float32[tokens, vocab]`.

        For tests: the engine itself needs few of them.
        """
        with torch.inference_mode(), one_thread():
            lanes = lay_out(batch).lanes
            rows = [
                self._transformer.logits(
                    self._transformer.normed(self._through_layers(group, batch.reqs, None))
                )
                for group in lanes.groups()
            ]
            return torch.cat(rows)[: len(batch.input_ids)].cpu()

    def _through_layers(
        self, group: Lanes, reqs: Sequence[Req], hidden: torch.Tensor | None
    ) -> torch.Tensor:
        if hidden is None:
            hidden = self._transformer.embed(torch.from_numpy(group.tokens).to(self._device))
        return self._transformer.through_layers(
            hidden,
            torch.from_numpy(group.positions).to(self._device),
            plan=self._contexts.plan(group),
            kv=self.kv,
            window_plan=self._contexts.window_plan(group) if self.config.window_layers else None,
            adapters=self._lane_adapters(group, reqs) if self._adapters else (),
        )

    def _logits(self, states: torch.Tensor, lanes: IntArray) -> torch.Tensor:
        """Return `[LANES, vocab]`, of which the first `len(lanes)` rows count."""
        padded = np.zeros(LANES, dtype=np.int64)
        padded[: len(lanes)] = lanes
        rows = states.index_select(0, torch.from_numpy(padded).to(self._device))
        return self._transformer.logits(rows)

    def _lane_adapters(self, group: Lanes, reqs: Sequence[Req]) -> list[LaneAdapter]:
        names = [reqs[index].lora_path if index >= 0 else None for index in group.reqs.tolist()]
        return [
            LaneAdapter(
                self._adapters[wanted],
                torch.tensor([[name == wanted] for name in names], device=self._device),
            )
            for wanted in sorted({name for name in names if name is not None})
        ]


def load_transformer(
    folder: Path,
    *,
    load_format: str,
    device: str,
    seed: int,
    num_slots: int,
    req_to_token_pool: ReqToTokenPool,
    lora_paths: Mapping[str, str],
    config_overrides: Mapping[str, Any] | None = None,
    window: WindowStorage | None = None,
    stage: Stage | None = None,
) -> TransformerModel:
    """Read a model folder and the adapters. Raises `ConfigError`, which names the file at fault."""
    config = read_config(folder, overrides=config_overrides)
    if stage is not None and config.num_layers < stage.count:
        raise ConfigError(
            f"engine argument pp_size={stage.count}, but {config.file} has "
            f"{config.num_layers} layers, and each stage needs one",
            hint=f"use pp_size={config.num_layers} or less",
        )
    opened = open_device(device)
    _check_memory(config, num_slots=num_slots, device=opened)
    dummy = load_format == "dummy"
    weights = dummy_weights(config, seed=seed) if dummy else load_weights(folder, config)
    adapters = {
        name: load_adapter(Path(path).expanduser(), name=name, config=config, device=opened)
        for name, path in lora_paths.items()
    }
    return TransformerModel(
        config,
        weights,
        req_to_token_pool=req_to_token_pool,
        num_slots=num_slots,
        device=opened,
        seed=seed,
        adapters=adapters,
        window=window,
        stage=stage,
    )


def _check_memory(config: TransformerConfig, *, num_slots: int, device: torch.device) -> None:
    parameters = sum(map(math.prod, expected_shapes(config).values()))
    needs = {f"{config.file}: a model of {parameters:,} parameters": parameters * _FLOAT_BYTES}
    if device.type == "cpu":
        kv_numbers = 2 * config.num_layers * num_slots * config.num_kv_heads * config.head_dim
        needs[f"the KV of the {num_slots:,} slots of max_total_tokens"] = kv_numbers * _FLOAT_BYTES
    check_fits(needs, hint="use a smaller model, or a smaller max_total_tokens")
