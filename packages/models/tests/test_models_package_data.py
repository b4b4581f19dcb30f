"""What is committed is whole and consistent, without torch."""

from __future__ import annotations

import json
import math
import random
import struct
from pathlib import Path
from typing import Any

import pytest
from scripted_models import (
    CHECKPOINTS,
    DATASETS,
    UnknownCheckpoint,
    UnknownDataset,
    checkpoint,
    dataset,
)
from scripted_models.training import datasets
from scripted_models.training.facts import HELD_OUT_FACTS
from scripted_models.training.text import Mixture, write_document
from scripted_registry.ci import register_cpu_ci

register_cpu_ci(est_time=4, stage="unit", runner_config="cpu")

LARGEST_BYTES = {"tiny": 4_000_000, "tiny-draft": 1_000_000}


def read_config(name: str) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((checkpoint(name) / "config.json").read_text("utf-8"))
    return content


def read_header(name: str) -> tuple[dict[str, Any], int]:
    """Return a safetensors file's header and the number of bytes after it."""
    content = (checkpoint(name) / "model.safetensors").read_bytes()
    (size,) = struct.unpack("<Q", content[:8])
    header: dict[str, Any] = json.loads(content[8 : 8 + size])
    return header, len(content) - 8 - size


def read_items(name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in dataset(name).read_text("utf-8").splitlines()]


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_weights_have_the_shapes_of_the_configuration(name: str) -> None:
    config = read_config(name)
    header, data_bytes = read_header(name)
    header.pop("__metadata__")
    hidden, dim = config["hidden_size"], config["head_dim"]
    layer = "model.layers.0.self_attn"
    assert header["model.embed_tokens.weight"]["shape"] == [config["vocab_size"], hidden]
    assert header[f"{layer}.q_proj.weight"]["shape"] == [
        config["num_attention_heads"] * dim,
        hidden,
    ]
    assert header[f"{layer}.k_proj.weight"]["shape"] == [
        config["num_key_value_heads"] * dim,
        hidden,
    ]
    layers = {key.split(".")[2] for key in header if key.startswith("model.layers.")}
    assert len(layers) == config["num_hidden_layers"]
    assert {entry["dtype"] for entry in header.values()} == {"F32"}
    assert sum(4 * math.prod(entry["shape"]) for entry in header.values()) == data_bytes
    assert data_bytes <= LARGEST_BYTES[name]


def test_special_tokens_are_never_said_but_are_heard() -> None:
    # A prompt of one repeated special token must not be a prompt of zeros.
    assert first_rows_with_content("lm_head.weight") == [False, False, False, False, True]
    assert first_rows_with_content("model.embed_tokens.weight") == [True] * 5


def first_rows_with_content(tensor: str) -> list[bool]:
    """Return for the first five rows of a matrix of `tiny` whether they hold more than zeros."""
    header, data_bytes = read_header("tiny")
    start, _ = header[tensor]["data_offsets"]
    content = (checkpoint("tiny") / "model.safetensors").read_bytes()[-data_bytes:]
    row_bytes = 4 * read_config("tiny")["hidden_size"]
    return [any(content[start + n * row_bytes : start + (n + 1) * row_bytes]) for n in range(5)]


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_the_tokenizer_covers_the_vocabulary(name: str) -> None:
    config = read_config(name)
    content = json.loads((checkpoint(name) / "tokenizer.json").read_text("utf-8"))
    pieces = [piece for piece, _ in content["model"]["vocab"]]
    assert len(pieces) == len(set(pieces)) == config["vocab_size"]
    assert pieces[config["eos_token_id"]] == "<eos>"
    assert config["architectures"] == ["Qwen3ForCausalLM"]


def test_both_checkpoints_share_one_tokenizer() -> None:
    first, second = ((checkpoint(name) / "tokenizer.json").read_bytes() for name in CHECKPOINTS)
    assert first == second


@pytest.mark.parametrize("name", DATASETS)
def test_datasets_have_200_different_items(name: str) -> None:
    assert len({json.dumps(item) for item in read_items(name)}) == len(read_items(name)) == 200


def test_the_committed_datasets_are_those_that_the_script_writes(tmp_path: Path) -> None:
    datasets.main(["--out", str(tmp_path)])
    for name in DATASETS:
        assert (tmp_path / f"{name}.jsonl").read_bytes() == dataset(name).read_bytes()


def test_hellaswag_items_have_one_right_ending_of_four() -> None:
    items = read_items("hellaswag")
    assert all(len(set(item["endings"])) == 4 for item in items)
    labels = [item["label"] for item in items]
    assert {0, 1, 2, 3} == set(labels)
    # An answer that is always the same is no better than chance.
    assert max(labels.count(label) for label in range(4)) < 80


def test_recall_asks_for_what_was_told_long_before() -> None:
    for item in read_items("recall"):
        words = item["prompt"].split()
        person = words[-1]
        told = words.index(person)
        assert words[told + 1] == item["answer"]
        assert words.count(item["answer"]) == 1
        assert len(words) - 1 - told == item["distance"] >= 256


def test_training_text_holds_no_held_out_item() -> None:
    rng = random.Random(11)
    text = "\n".join(
        write_document(rng, Mixture(recall_pairs=20, recall_filler_words=60)) for _ in range(4000)
    )
    scenes = [f"{item['ctx']} {item['endings'][item['label']]}" for item in read_items("hellaswag")]
    pairs = [f" {item['prompt'].split()[-1]} {item['answer']} ." for item in read_items("recall")]
    facts = [f" {item['prompt']} {item['answer']} ." for item in read_items("facts")]
    assert [found for found in [*scenes, *pairs, *facts] if found in text] == []
    # The same text holds the same facts in other phrasings: the search above finds what is there.
    others = [fact.answer for fact in HELD_OUT_FACTS if f"{fact.answer} ." not in text]
    assert others == []


def test_unknown_names_are_refused_with_those_that_exist() -> None:
    with pytest.raises(UnknownCheckpoint, match=r"'large'.*'tiny', 'tiny-draft'"):
        checkpoint("large")
    with pytest.raises(UnknownDataset, match=r"'mmlu'.*'facts', 'recall', 'hellaswag'"):
        dataset("mmlu")
