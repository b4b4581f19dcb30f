"""A transformer on hand-made batches: who asks for which tokens of which request, and when."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scripted_reference.memory import PagedTokenAllocator, ReqToTokenPool
from scripted_reference.models.base import BatchResult
from scripted_reference.request import Req, SamplingParams
from scripted_reference.schedule_batch import ForwardMode, ScheduleBatch

QWEN3: Mapping[str, Any] = {
    "architectures": ["Qwen3ForCausalLM"],
    "model_type": "qwen3",
    "vocab_size": 301,
    "hidden_size": 48,
    "intermediate_size": 92,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "hidden_act": "silu",
    "rms_norm_eps": 1e-6,
    "rope_theta": 10000.0,
    "attention_bias": False,
    "max_position_embeddings": 1024,
    "tie_word_embeddings": True,
    "eos_token_id": 2,
}


def write_config(folder: Path, **changes: Any) -> Path:
    """Write a model folder with only a `config.json`: Qwen3 with these keys changed."""
    folder.mkdir(parents=True, exist_ok=True)
    config = {key: value for key, value in {**QWEN3, **changes}.items() if value is not None}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


class Lab:
    """A model with real pools. Its requests are `Req`s that no scheduler knows of."""

    def __init__(self, folder: Path, **options: Any) -> None:
        from scripted_reference.models.transformer_model import load_transformer

        page_size = options.pop("page_size", 1)
        size = options.pop("size", 4096)
        self.allocator = PagedTokenAllocator(size=size, page_size=page_size)
        self.rows = ReqToTokenPool(size=64, max_context_len=options.pop("context_length", 1024))
        settings = {"load_format": "dummy", "device": "cpu", "seed": 0, "lora_paths": {}}
        self.model = load_transformer(
            folder,
            num_slots=size + page_size,
            req_to_token_pool=self.rows,
            **{**settings, **options},
        )

    def request(self, ids: Sequence[int], *, prefix: Sequence[int] = (), **wishes: Any) -> Req:
        """Make a request; `prefix` are slots that hold the KV of its first tokens already."""
        sampling = {key: wishes.pop(key) for key in ("temperature", "seed") if key in wishes}
        req = Req(
            rid="r",
            origin_input_ids=list(ids),
            sampling_params=SamplingParams(max_new_tokens=1000, ignore_eos=True, **sampling),
            max_new_tokens=1000,
            eos_token_id=2,
        )
        req.prefix_indices = np.array(prefix, dtype=np.int64)
        for name, value in wishes.items():
            setattr(req, name, value)
        req.init_next_round_input()
        return req

    def batch(self, *parts: tuple[Req, int]) -> ScheduleBatch:
        """Prepare an extend batch of so many further tokens of each request."""
        for req, count in parts:
            req.extend_input_len = count
        batch = ScheduleBatch([req for req, _ in parts], ForwardMode.EXTEND)
        batch.prepare_for_extend(rows=self.rows, allocator=self.allocator)
        return batch

    def extend(self, *parts: tuple[Req, int]) -> BatchResult:
        return self.model.forward(self.batch(*parts))

    def decode(self, reqs: Sequence[Req], steps: int) -> list[BatchResult]:
        """Decode so many steps; the requests have one output token that is not computed yet."""
        results = []
        for _ in range(steps):
            results.append(self.model.forward(self.decode_batch(reqs)))
            self.append(reqs, results[-1])
        return results

    def decode_batch(self, reqs: Sequence[Req]) -> ScheduleBatch:
        """Prepare a batch in which each request computes its newest output token."""
        batch = ScheduleBatch(reqs, ForwardMode.DECODE)
        batch.index_for_decode(unprocessed={})
        batch.prepare_for_decode(rows=self.rows, allocator=self.allocator)
        return batch

    def append(self, reqs: Sequence[Req], result: BatchResult) -> None:
        for req, token in zip(reqs, result.next_token_ids.tolist(), strict=True):
            req.output_ids.append(token)

    def generate(self, ids: Sequence[int], count: int, **wishes: Any) -> list[int]:
        """Generate alone."""
        req = self.request(ids, **wishes)
        self.append([req], self.extend((req, len(ids))))
        self.decode([req], count - 1)
        return req.output_ids

    def slots(self, req: Req) -> list[int]:
        """The slots of a request, by position."""
        assert req.req_pool_idx is not None
        slots: list[int] = self.rows.req_to_token[req.req_pool_idx, : req.kv_allocated_len].tolist()
        return slots


def prompt(seed: object, length: int) -> list[int]:
    rng = random.Random(repr(seed))
    return [rng.randrange(3, 300) for _ in range(length)]


@pytest.fixture(scope="session")
def lab() -> type[Lab]:
    """Make a lab: `lab(folder, page_size=16, ...)`."""
    return Lab


@pytest.fixture(scope="session")
def random_prompt() -> Callable[[object, int], list[int]]:
    """Make a prompt: `random_prompt(seed, length)`."""
    return prompt


@pytest.fixture
def config_folder(tmp_path: Path) -> Callable[..., Path]:
    """Write a folder with only a configuration: `config_folder(head_dim=8)`."""
    return lambda **changes: write_config(tmp_path / "model", **changes)


def _devices() -> list[str]:
    if find_spec("torch") is None:
        return ["cpu"]  # the test modules are skipped as a whole
    import torch

    return ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]


@pytest.fixture(params=_devices())
def device(request: pytest.FixtureRequest) -> str:
    """Each device that torch finds here."""
    name: str = request.param
    return name
