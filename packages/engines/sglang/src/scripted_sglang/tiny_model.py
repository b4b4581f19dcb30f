"""A two-layer Qwen3 that fits in half a megabyte, written from a seed.

SGLang's own `load_format="dummy"` weights are so small that a prompt hardly moves the output. These
are drawn from a seed at a scale at which every prompt token matters, so that two different prompts
give two different continuations. With a sliding window it is a Mellum instead, the architecture of
SGLang that has windows and runs on a CPU: its first layer sees the window only, its second everything.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from scripted_registry.errors import ConfigError

VOCAB_SIZE: Final = 512
HIDDEN_SIZE: Final = 64
INTERMEDIATE_SIZE: Final = 128
LAYERS: Final = 2
HEADS: Final = 4
KV_HEADS: Final = 2
HEAD_DIM: Final = 16
SPECIAL_TOKENS: Final = ("<pad>", "<bos>", "<eos>", "<unk>")
EOS_TOKEN_ID: Final = SPECIAL_TOKENS.index("<eos>")

# The portable name of "a small model" in scripts; without a hub it is this one.
SMALL_MODEL: Final = "Qwen/Qwen3-0.6B"
# The same with sliding windows of so many tokens in one of its layers.
WINDOW_MODEL: Final = "tiny-swa"
# The portable name of "a small model with sliding windows" in scripts.
SMALL_SWA_MODEL: Final = "scripted/small-swa"
WINDOW_TOKENS: Final = 32

_STAMP: Final = "scripted_tiny_model.json"
_FORMAT: Final = 3
_EMBEDDING_STD: Final = 0.02
_O_PROJ_GAIN: Final = 4.0
_DOWN_PROJ_GAIN: Final = 16.0

_Weights = dict[str, npt.NDArray[np.float32]]


def write_tiny_model(
    folder: Path, *, context_length: int = 1024, seed: int = 0, window_tokens: int | None = None
) -> Path:
    """Write configuration, tokenizer and weights into `folder` and return it.

    `window_tokens` makes it a model with sliding windows of so many tokens.
    The same arguments give the same bytes. A folder that already holds this model is left alone;
    one that holds anything else raises `ConfigError`. `context_length` is in tokens. The vocabulary
    has 512 words, `w4` to `w511` after four special tokens; token *n* is the word `w<n>`. Greedy
    decoding never ends in an end-of-sequence token by itself: the logits of special tokens are
    always 0, while the largest of the other 508 is positive.
    """
    if context_length < 1:
        raise ConfigError(
            f"context_length must be at least 1 token, not {context_length}",
            hint="leave it out for 1024 tokens",
        )
    stamp = {
        "format": _FORMAT,
        "context_length": context_length,
        "seed": seed,
        "window_tokens": window_tokens,
    }
    if folder.exists():
        if not folder.is_dir():
            raise ConfigError(f"{folder} is not a folder", hint="name an empty or new folder")
        if _stamp_of(folder) == stamp:
            return folder
        if any(folder.iterdir()):
            raise ConfigError(
                f"{folder} is not empty and does not hold this tiny model",
                hint="name an empty or new folder",
            )
    from safetensors.numpy import save_file

    folder.parent.mkdir(parents=True, exist_ok=True)
    # Beside it and then renamed, so that nobody ever sees a folder that is half written.
    with tempfile.TemporaryDirectory(
        prefix=f".{folder.name}-", dir=folder.parent, ignore_cleanup_errors=True
    ) as scratch:
        whole = Path(scratch) / "model"
        whole.mkdir()
        config = _config(context_length)
        if window_tokens is not None:
            config |= _with_windows(window_tokens)
        _write_json(whole / "config.json", config)
        _write_json(whole / "generation_config.json", {"eos_token_id": EOS_TOKEN_ID})
        _write_json(whole / "tokenizer.json", _tokenizer())
        _write_json(whole / "tokenizer_config.json", _tokenizer_config(context_length))
        save_file(_weights(seed), whole / "model.safetensors", metadata={"format": "pt"})
        _write_json(whole / _STAMP, stamp)
        try:
            whole.rename(folder)  # also onto an empty folder
        except OSError:
            if _stamp_of(folder) != stamp:  # another process was faster, with the same model
                raise
    return folder


def resolve_model_path(model_path: str, *, folder: Path, context_length: int = 1024) -> str:
    """Return `model_path`, or, for `SMALL_MODEL`, a tiny model written into `folder`."""
    if model_path != SMALL_MODEL:
        return model_path
    return str(write_tiny_model(folder, context_length=context_length))


def _stamp_of(folder: Path) -> object:
    stamp = folder / _STAMP
    return json.loads(stamp.read_text(encoding="utf-8")) if stamp.is_file() else None


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def _config(context_length: int) -> dict[str, Any]:
    return {
        "architectures": ["Qwen3ForCausalLM"],
        "model_type": "qwen3",
        "vocab_size": VOCAB_SIZE,
        "hidden_size": HIDDEN_SIZE,
        "intermediate_size": INTERMEDIATE_SIZE,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "num_key_value_heads": KV_HEADS,
        "head_dim": HEAD_DIM,
        "hidden_act": "silu",
        "rms_norm_eps": 1e-6,
        "rope_theta": 10000.0,
        "attention_bias": False,
        "attention_dropout": 0.0,
        "max_position_embeddings": context_length,
        "tie_word_embeddings": False,
        "torch_dtype": "float32",
        "bos_token_id": SPECIAL_TOKENS.index("<bos>"),
        "eos_token_id": EOS_TOKEN_ID,
        "pad_token_id": SPECIAL_TOKENS.index("<pad>"),
        "use_cache": True,
    }


def _with_windows(window_tokens: int) -> dict[str, Any]:
    rope = {"rope_type": "default", "rope_theta": 10000.0}
    return {
        "architectures": ["MellumForCausalLM"],
        "model_type": "mellum",
        "sliding_window": window_tokens,
        "layer_types": ["sliding_attention", "full_attention"],
        "mlp_layer_types": ["dense"] * LAYERS,
        "rope_parameters": {"sliding_attention": rope, "full_attention": rope},
        # Of the experts it has none, but its configuration has to say how many.
        "num_experts": 2,
        "num_experts_per_tok": 1,
        "moe_intermediate_size": INTERMEDIATE_SIZE,
        "norm_topk_prob": True,
    }


def _tokenizer() -> dict[str, Any]:
    words = [*SPECIAL_TOKENS, *(f"w{n}" for n in range(len(SPECIAL_TOKENS), VOCAB_SIZE))]
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {
                "id": token_id,
                "content": word,
                "single_word": False,
                "lstrip": False,
                "rstrip": False,
                "normalized": False,
                "special": True,
            }
            for token_id, word in enumerate(SPECIAL_TOKENS)
        ],
        "normalizer": None,
        "pre_tokenizer": {"type": "WhitespaceSplit"},
        "post_processor": None,
        "decoder": None,
        "model": {
            "type": "WordLevel",
            "vocab": {word: token_id for token_id, word in enumerate(words)},
            "unk_token": "<unk>",
        },
    }


def _tokenizer_config(context_length: int) -> dict[str, Any]:
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": context_length,
        "clean_up_tokenization_spaces": False,
        "pad_token": "<pad>",
        "bos_token": "<bos>",
        "eos_token": "<eos>",
        "unk_token": "<unk>",
    }


def _weights(seed: int) -> _Weights:
    # The old generator: its stream is frozen, so that the weights are the same with every NumPy.
    rng = np.random.RandomState(seed)

    def normal(rows: int, columns: int, *, gain: float = 1.0) -> npt.NDArray[np.float32]:
        scale = gain / np.sqrt(columns)
        drawn: npt.NDArray[np.float64] = rng.standard_normal(size=(rows, columns)) * scale
        return drawn.astype(np.float32)

    def ones(size: int) -> npt.NDArray[np.float32]:
        return np.ones(size, dtype=np.float32)

    # Small, so that what the layers add outweighs the token itself in the residual stream.
    embedding = (_EMBEDDING_STD * rng.standard_normal(size=(VOCAB_SIZE, HIDDEN_SIZE))).astype(
        np.float32
    )
    weights: _Weights = {"model.embed_tokens.weight": embedding}
    for layer in range(LAYERS):
        prefix = f"model.layers.{layer}"
        attention, mlp = f"{prefix}.self_attn", f"{prefix}.mlp"
        weights |= {
            f"{prefix}.input_layernorm.weight": ones(HIDDEN_SIZE),
            f"{prefix}.post_attention_layernorm.weight": ones(HIDDEN_SIZE),
            f"{attention}.q_proj.weight": normal(HEADS * HEAD_DIM, HIDDEN_SIZE),
            f"{attention}.k_proj.weight": normal(KV_HEADS * HEAD_DIM, HIDDEN_SIZE),
            f"{attention}.v_proj.weight": normal(KV_HEADS * HEAD_DIM, HIDDEN_SIZE),
            # An average over a long prompt shrinks what attention adds; the gain makes up for it.
            f"{attention}.o_proj.weight": normal(HIDDEN_SIZE, HEADS * HEAD_DIM, gain=_O_PROJ_GAIN),
            f"{attention}.q_norm.weight": ones(HEAD_DIM),
            f"{attention}.k_norm.weight": ones(HEAD_DIM),
            f"{mlp}.gate_proj.weight": normal(INTERMEDIATE_SIZE, HIDDEN_SIZE),
            f"{mlp}.up_proj.weight": normal(INTERMEDIATE_SIZE, HIDDEN_SIZE),
            f"{mlp}.down_proj.weight": normal(HIDDEN_SIZE, INTERMEDIATE_SIZE, gain=_DOWN_PROJ_GAIN),
        }
    head = normal(VOCAB_SIZE, HIDDEN_SIZE, gain=4.0)
    head[: len(SPECIAL_TOKENS)] = 0.0
    weights["model.norm.weight"] = ones(HIDDEN_SIZE)
    weights["lm_head.weight"] = head
    return weights
