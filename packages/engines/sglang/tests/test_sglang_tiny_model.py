from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file
from scripted_registry.ci import register_cpu_ci
from scripted_registry.errors import ConfigError
from scripted_sglang import tiny_model
from scripted_sglang.tiny_model import resolve_model_path, write_tiny_model

register_cpu_ci(est_time=1, stage="unit", runner_config="cpu")
register_cpu_ci(est_time=1, stage="single-sglang", runner_config="cpu")


def _contents(folder: Path) -> dict[str, bytes]:
    return {entry.name: entry.read_bytes() for entry in folder.iterdir()}


def test_the_same_seed_gives_the_same_bytes_and_another_gives_others(tmp_path: Path) -> None:
    first = _contents(write_tiny_model(tmp_path / "a", seed=3))
    assert _contents(write_tiny_model(tmp_path / "b", seed=3)) == first
    other = _contents(write_tiny_model(tmp_path / "c", seed=4))
    assert other["model.safetensors"] != first["model.safetensors"]
    assert other["tokenizer.json"] == first["tokenizer.json"]


def test_a_model_that_is_there_is_left_alone(tmp_path: Path) -> None:
    folder = write_tiny_model(tmp_path / "m")
    before = (folder / "model.safetensors").stat().st_mtime_ns
    assert write_tiny_model(folder) == folder
    assert (folder / "model.safetensors").stat().st_mtime_ns == before


def test_the_weights_are_these_on_every_machine(tmp_path: Path) -> None:
    weights = load_file(write_tiny_model(tmp_path / "m") / "model.safetensors")
    embedding = weights["model.embed_tokens.weight"]
    assert embedding[0, :3].tolist() == pytest.approx([0.03528105, 0.00800314, 0.01957476])
    scales = {
        "self_attn.o_proj": 4.0,
        "mlp.down_proj": 16.0,
        "self_attn.v_proj": 1.0,
    }
    assert embedding.std() == pytest.approx(0.02, rel=0.05)
    for name, gain in scales.items():
        value = weights[f"model.layers.1.{name}.weight"]
        assert value.std() * value.shape[1] ** 0.5 == pytest.approx(gain, rel=0.05)
    assert (weights["model.layers.0.self_attn.q_norm.weight"] == 1.0).all()
    assert (weights["model.layers.0.self_attn.k_norm.weight"] == 1.0).all()


def test_a_model_that_was_cut_off_leaves_no_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full_disk(*_: object) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(tiny_model, "_tokenizer_config", full_disk)
    with pytest.raises(OSError, match="no space left"):
        write_tiny_model(tmp_path / "m")
    assert list(tmp_path.iterdir()) == []


def test_an_empty_folder_is_filled_and_a_faster_writer_wins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "m"
    folder.mkdir()
    honest = tiny_model._weights

    def while_another_writes(seed: int) -> dict[str, np.ndarray]:
        monkeypatch.setattr(tiny_model, "_weights", honest)
        write_tiny_model(folder)
        return honest(seed)

    monkeypatch.setattr(tiny_model, "_weights", while_another_writes)
    assert write_tiny_model(folder) == folder
    assert [entry.name for entry in tmp_path.iterdir()] == ["m"]


@pytest.mark.parametrize("change", [{"seed": 1}, {"context_length": 64}])
def test_another_model_is_not_overwritten(tmp_path: Path, change: dict[str, int]) -> None:
    folder = write_tiny_model(tmp_path / "m")
    with pytest.raises(ConfigError, match="not empty"):
        write_tiny_model(folder, **change)


def test_a_file_and_a_context_of_nothing_are_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="not a folder"):
        write_tiny_model(tmp_path / "file")
    with pytest.raises(ConfigError, match="at least 1 token"):
        write_tiny_model(tmp_path / "m", context_length=0)


def test_the_files_agree_with_each_other(tmp_path: Path) -> None:
    folder = write_tiny_model(tmp_path / "m", context_length=96)
    config = json.loads((folder / "config.json").read_text())
    vocabulary = json.loads((folder / "tokenizer.json").read_text())["model"]["vocab"]
    weights = load_file(folder / "model.safetensors")
    assert config["max_position_embeddings"] == 96
    assert sorted(vocabulary.values()) == list(range(config["vocab_size"]))
    assert vocabulary["w100"] == 100
    assert vocabulary["<eos>"] == config["eos_token_id"] == tiny_model.EOS_TOKEN_ID
    assert weights["lm_head.weight"].shape == (config["vocab_size"], config["hidden_size"])
    assert {name.split(".")[2] for name in weights if ".layers." in name} == {"0", "1"}
    assert all(value.dtype == np.float32 for value in weights.values())


def test_greedy_decoding_never_meets_a_special_token(tmp_path: Path) -> None:
    head = load_file(write_tiny_model(tmp_path / "m") / "model.safetensors")["lm_head.weight"]
    hidden = np.random.default_rng(0).standard_normal((2000, head.shape[1])).astype(np.float32)
    assert (hidden @ head.T).argmax(axis=1).min() >= len(tiny_model.SPECIAL_TOKENS)


def test_only_the_small_model_is_mapped(tmp_path: Path) -> None:
    assert resolve_model_path("some/other", folder=tmp_path / "m") == "some/other"
    assert not (tmp_path / "m").exists()
    mapped = resolve_model_path(tiny_model.SMALL_MODEL, folder=tmp_path / "m")
    assert mapped == str(tmp_path / "m")
    assert (tmp_path / "m" / "config.json").is_file()


def test_a_model_with_windows_has_the_same_weights_and_says_which_layer_has_one(
    tmp_path: Path,
) -> None:
    plain = _contents(write_tiny_model(tmp_path / "plain"))
    windows = _contents(write_tiny_model(tmp_path / "windows", window_tokens=32))
    assert windows["model.safetensors"] == plain["model.safetensors"]
    config = json.loads(windows["config.json"])
    assert config["architectures"] == ["MellumForCausalLM"]
    assert config["sliding_window"] == 32
    assert config["layer_types"] == ["sliding_attention", "full_attention"]
    with pytest.raises(ConfigError, match="does not hold this tiny model"):
        write_tiny_model(tmp_path / "windows", window_tokens=16)
