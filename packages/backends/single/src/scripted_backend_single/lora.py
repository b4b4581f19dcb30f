"""LoRA adapters written from a seed, for any small Llama, Qwen2 or Qwen3 folder."""

from __future__ import annotations

import atexit
import json
import shutil
import tempfile
from functools import cache, partial
from pathlib import Path
from typing import Any

from scripted_core.errors import ConfigError

from scripted_backend_single.arguments import single_device_kwargs

ADAPTERS = ("first", "second")
"""The names of the adapters of ``lora_device_kwargs``."""
_OF_SGLANG = {
    "lora_backend": "torch_native",
    "enable_priority_scheduling": True,
    "enable_mixed_chunk": True,
}
_RANK = 4
_ALPHA = 16
_PREFIX = "base_model.model.model.layers"


def write_lora(folder: Path, *, model: Path, seed: int) -> Path:
    """Write an adapter of rank 4 for the attention projections of ``model`` and return ``folder``.

    The same seed and model give the same bytes. Its updates are as large as the weights
    themselves, so that it says other things than the model alone. Raises ``ConfigError`` without
    NumPy and safetensors.
    """
    try:
        import numpy as np
        from safetensors.numpy import save_file
    except ImportError as error:
        raise ConfigError(
            f"an adapter cannot be written: {error}",
            hint="pip install 'scripted-backend-single[lora]'",
        ) from error

    config = json.loads((model / "config.json").read_text(encoding="utf-8"))
    head_dim = config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]
    hidden = config["hidden_size"]
    out_sizes = {
        "q_proj": config["num_attention_heads"] * head_dim,
        "k_proj": config["num_key_value_heads"] * head_dim,
        "v_proj": config["num_key_value_heads"] * head_dim,
    }
    # The old generator: its stream is frozen, so that the adapter is the same with every NumPy.
    rng = np.random.RandomState(seed)
    tensors: dict[str, Any] = {}
    for layer in range(config["num_hidden_layers"]):
        for name, out_size in out_sizes.items():
            for half, shape in (("A", (_RANK, hidden)), ("B", (out_size, _RANK))):
                drawn = rng.standard_normal(size=shape) / np.sqrt(shape[1])
                key = f"{_PREFIX}.{layer}.self_attn.{name}.lora_{half}.weight"
                tensors[key] = drawn.astype(np.float32)
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    described = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "r": _RANK,
        "lora_alpha": _ALPHA,
        "lora_dropout": 0.0,
        "bias": "none",
        "target_modules": list(out_sizes),
    }
    (folder / "adapter_config.json").write_text(json.dumps(described), encoding="utf-8")
    return folder


@cache
def drawn_lora(*, model: Path, seed: int) -> str:
    """The folder of an adapter for ``model``, written once; it goes with this process.

    That holds also when the process dies of SIGTERM or SIGHUP, of which ``atexit`` hears nothing.
    """
    from scripted_core.sessions.termination import (
        LAST_ACTS,  # with it come all of a session's parts
    )

    folder = Path(tempfile.mkdtemp(prefix="scripted-lora-"))
    remove = partial(shutil.rmtree, folder, ignore_errors=True)
    atexit.register(remove)
    LAST_ACTS.add(folder, remove)
    return str(write_lora(folder, model=model, seed=seed))


def lora_device_kwargs(*, engine: str, model: Path, **overrides: Any) -> dict[str, Any]:
    """One device with the trained checkpoint in ``model`` and two adapters drawn for it.

    SGLang also schedules by priority and mixes decodes into chunks, so that the scripts about those
    share its server.
    """
    adapters = {name: drawn_lora(model=model, seed=seed) for seed, name in enumerate(ADAPTERS)}
    extra = _OF_SGLANG if engine == "sglang" else {}
    return single_device_kwargs(
        **{"model_path": "tiny", "lora_paths": adapters, **extra, **overrides}
    )
