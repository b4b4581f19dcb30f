"""Checkpoints in Hugging Face format: writing them and reading them back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file

from scripted_models.training.model import ModelConfig, Weights, parameter_shapes
from scripted_models.training.tokenizer import (
    BOS_ID,
    EOS_ID,
    PAD_ID,
    build_tokenizer,
    tokenizer_config,
)


def write_checkpoint(folder: Path, config: ModelConfig, weights: Weights) -> None:
    """Write configuration, tokenizer and weights into `folder`, over what is there.

    The model card is not among them: it is written by hand from what `evaluate` measures.
    """
    folder.mkdir(parents=True, exist_ok=True)
    special = {"bos_id": BOS_ID, "eos_id": EOS_ID, "pad_id": PAD_ID}
    _write_json(folder / "config.json", config.to_hugging_face(**special))
    _write_json(
        folder / "generation_config.json",
        {"bos_token_id": BOS_ID, "eos_token_id": EOS_ID, "pad_token_id": PAD_ID},
    )
    build_tokenizer().save(str(folder / "tokenizer.json"))
    _write_json(
        folder / "tokenizer_config.json",
        tokenizer_config(context_length=config.max_position_embeddings),
    )
    tensors = {name: weight.detach().contiguous() for name, weight in weights.items()}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def read_checkpoint(folder: Path) -> tuple[ModelConfig, Weights]:
    """Return shape and parameters of the checkpoint in `folder`, which need no gradients.

    Raises `ValueError` where the file's shapes are not those of the configuration.
    """
    content = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    config = ModelConfig.from_hugging_face(content)
    weights: Weights = load_file(folder / "model.safetensors")
    found = {name: tuple(weight.shape) for name, weight in weights.items()}
    if found != parameter_shapes(config):
        raise ValueError(f"{folder}: model.safetensors does not have the shapes of config.json")
    return config, weights


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
