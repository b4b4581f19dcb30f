"""The models of the GPU stage: written on the spot, since the machine has no internet.

The layers of a real model on a small vocabulary and without weights keep a GPU as busy as the real one
does. A draft for EAGLE3 has random weights: it is right by chance only, so that nearly every guess is
taken back, which is what speculation asks of a scheduler.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

Config = dict[str, Any]

LAYERS: Final[dict[str, dict[str, int]]] = {
    "0.6B": {
        "hidden_size": 1024,
        "intermediate_size": 3072,
        "num_hidden_layers": 28,
        "num_attention_heads": 16,
        "num_key_value_heads": 8,
        "head_dim": 128,
    },
    "8B": {
        "hidden_size": 4096,
        "intermediate_size": 12288,
        "num_hidden_layers": 36,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "head_dim": 128,
    },
}
"""The shapes of Qwen3 models, by their size."""
# Hidden states of as many target layers go into a draft of EAGLE3.
_TAPPED_LAYERS: Final = 3


def enlarge(model: Path, size: str) -> None:
    """Give a model in a folder the layers of a Qwen3 of ``size``, a key of ``LAYERS``."""
    config = _config_of(model)
    config |= {**LAYERS[size], "torch_dtype": "bfloat16"}
    _write_config(model, config)


def write_eagle3_draft(folder: Path, *, target: Path, seed: int = 0) -> Path:
    """Write a one-layer draft of EAGLE3 for the Qwen3 in ``target``; weights are drawn from ``seed``.

    Its embedding is left out: the engine takes the target's.
    """
    from safetensors.numpy import save_file

    of = _config_of(target)
    hidden, inner, words = of["hidden_size"], of["intermediate_size"], of["vocab_size"]
    head_dim = of["head_dim"]
    queries, keys = of["num_attention_heads"] * head_dim, of["num_key_value_heads"] * head_dim
    folder.mkdir(parents=True)
    kept = ("hidden_size", "intermediate_size", "vocab_size", "head_dim", "rms_norm_eps")
    heads = ("num_attention_heads", "num_key_value_heads", "max_position_embeddings", "hidden_act")
    tokens = ("bos_token_id", "eos_token_id", "pad_token_id")
    config = {
        **{name: of[name] for name in (*kept, *heads, *tokens) if name in of},
        "architectures": ["LlamaForCausalLMEagle3"],
        "model_type": "llama",
        "num_hidden_layers": 1,
        "draft_vocab_size": words,
        "rope_theta": of.get("rope_theta", 10000.0),
        "tie_word_embeddings": False,
        "attention_bias": False,
        "mlp_bias": False,
        "torch_dtype": of.get("torch_dtype", "float32"),
    }
    _write_config(folder, config)
    rng = np.random.RandomState(seed)

    def drawn(rows: int, columns: int) -> npt.NDArray[np.float32]:
        scale = 1 / np.sqrt(columns)
        values: npt.NDArray[np.float64] = rng.standard_normal(size=(rows, columns)) * scale
        return values.astype(np.float32)

    def ones() -> npt.NDArray[np.float32]:
        return np.ones(hidden, dtype=np.float32)

    layer = "midlayer"
    weights = {
        "fc.weight": drawn(hidden, _TAPPED_LAYERS * hidden),
        # The layer reads the embedding of a token beside what the target thought before it.
        f"{layer}.self_attn.q_proj.weight": drawn(queries, 2 * hidden),
        f"{layer}.self_attn.k_proj.weight": drawn(keys, 2 * hidden),
        f"{layer}.self_attn.v_proj.weight": drawn(keys, 2 * hidden),
        f"{layer}.self_attn.o_proj.weight": drawn(hidden, queries),
        f"{layer}.mlp.gate_proj.weight": drawn(inner, hidden),
        f"{layer}.mlp.up_proj.weight": drawn(inner, hidden),
        f"{layer}.mlp.down_proj.weight": drawn(hidden, inner),
        f"{layer}.input_layernorm.weight": ones(),
        f"{layer}.hidden_norm.weight": ones(),
        f"{layer}.post_attention_layernorm.weight": ones(),
        "norm.weight": ones(),
        "lm_head.weight": drawn(words, hidden),
    }
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def _config_of(model: Path) -> Config:
    config: Config = json.loads((model / "config.json").read_text(encoding="utf-8"))
    return config


def _write_config(model: Path, config: Config) -> None:
    (model / "config.json").write_text(json.dumps(config, indent=1), encoding="utf-8")
