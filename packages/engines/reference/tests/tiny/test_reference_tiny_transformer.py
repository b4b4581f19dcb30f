"""The transformer computes what `transformers` computes, and its weights are checked when read."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from scripted_registry.ci import register_cpu_ci
from scripted_registry.errors import ConfigError

register_cpu_ci(est_time=4, stage="reference", runner_config="cpu")

torch = pytest.importorskip("torch", reason="torch is not installed; the tiny model needs it")

LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}


@pytest.mark.parametrize(
    ("architecture", "changes"),
    [
        ("Qwen3", {"head_dim": 24, "tie_word_embeddings": True}),
        ("Qwen3", {"head_dim": 8, "attention_bias": True, "num_key_value_heads": 4}),
        ("Qwen2", {"tie_word_embeddings": False, "num_key_value_heads": 1}),
        ("Llama", {"tie_word_embeddings": False, "rope_parameters": LLAMA3_ROPE}),
        ("Llama", {"attention_bias": True, "mlp_bias": True, "rms_norm_eps": 1e-2}),
        (
            "Llama",
            {"rope_parameters": {"rope_type": "linear", "rope_theta": 500.0, "factor": 2.0}},
        ),
        ("Qwen3", {"use_sliding_window": True, "sliding_window": 24, "max_window_layers": 1}),
        ("Qwen2", {"use_sliding_window": True, "sliding_window": 70, "max_window_layers": 2}),
    ],
)
def test_logits_are_those_of_transformers(
    architecture: str,
    changes: dict[str, Any],
    lab: Any,
    tmp_path: Path,
    random_prompt: Callable[..., list[int]],
) -> None:
    transformers = pytest.importorskip(
        "transformers", reason="transformers is not installed; it is what logits are compared with"
    )
    shape = {
        "vocab_size": 301,
        "hidden_size": 48,
        "intermediate_size": 92,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 512,
        "initializer_range": 0.3,
    }
    config = getattr(transformers, f"{architecture}Config")(**{**shape, **changes})
    torch.manual_seed(1)
    theirs = getattr(transformers, f"{architecture}ForCausalLM")(config).eval().float()
    with torch.no_grad():  # norms and biases are ones and zeros by default: no test of either
        for name, parameter in theirs.named_parameters():
            if name.endswith("norm.weight"):
                parameter.uniform_(0.5, 1.5)
            elif name.endswith(".bias"):
                parameter.normal_()
    theirs.save_pretrained(tmp_path / "hf", max_shard_size="60KB")
    assert (tmp_path / "hf" / "model.safetensors.index.json").is_file()
    ours = lab(tmp_path / "hf", load_format="auto", context_length=512)
    ids = random_prompt("p", 100)
    got = ours.model.logits(ours.batch((ours.request(ids), len(ids))))
    with torch.no_grad():
        wanted = theirs(torch.tensor([ids])).logits[0]
    assert wanted.std() > 0.3, "flat logits would agree with anything"
    torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-4)


def test_every_slot_is_read_back_through_the_row(
    lab: Any, config_folder: Callable[..., Path], random_prompt: Callable[..., list[int]]
) -> None:
    ours = lab(config_folder())
    ids = random_prompt("p", 40)

    def next_logits(corrupted: int | None) -> Any:
        req = ours.request(ids)
        token = int(ours.model.logits(ours.batch((req, 40)))[-1].argmax())
        slots = ours.slots(req)
        if corrupted is not None:
            ours.model.kv.write(slots[corrupted], ours.model.kv.read(slots[corrupted - 1]))
        req.output_ids.append(token)
        return ours.model.logits(ours.decode_batch([req]))

    clean = next_logits(None)
    assert torch.equal(clean, next_logits(None))
    for position in range(40):
        assert not torch.equal(clean, next_logits(position)), position


def test_the_reserved_page_stays_zero(
    lab: Any, config_folder: Callable[..., Path], random_prompt: Callable[..., list[int]]
) -> None:
    ours = lab(config_folder(), page_size=4)
    ours.extend((ours.request(random_prompt(0, 5)), 5), (ours.request(random_prompt(1, 9)), 9))
    assert len(ours.model.kv.keys) == len(ours.model.kv.values) == 2
    for stored in (*ours.model.kv.keys, *ours.model.kv.values):
        assert stored.shape == (4100, 2, 16)
        assert not stored[:4].any()
        assert stored[4:9].any(dim=(1, 2)).all()


def test_random_weights_depend_on_the_seed_alone(config_folder: Callable[..., Path]) -> None:
    from scripted_reference.models.config import read_config
    from scripted_reference.models.weights import dummy_weights

    config = read_config(config_folder())
    one, again, two = (dummy_weights(config, seed=seed) for seed in (1, 1, 2))
    assert all(torch.equal(one[name], again[name]) for name in one)
    name = "model.layers.1.mlp.up_proj.weight"
    assert not torch.equal(one[name], two[name])
    assert not torch.equal(one[name], one["model.layers.0.mlp.up_proj.weight"])


def _save(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    from safetensors.torch import save_file
    from scripted_reference.models.config import read_config
    from scripted_reference.models.weights import dummy_weights

    weights = dummy_weights(read_config(folder), seed=0)
    change(weights)
    save_file(weights, folder / "model.safetensors")


DOWN = "model.layers.1.mlp.down_proj.weight"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: w.pop(DOWN), f"lack {DOWN}"),
        (lambda w: w.update({"model.layers.2.x": w[DOWN].clone()}), "tensor model.layers.2.x, whi"),
        (lambda w: w.update({DOWN: torch.zeros(48, 90)}), "has the shape 48x90, but .* 48x92"),
    ],
)
def test_weights_of_another_model(
    change: Callable[..., object], message: str, lab: Any, config_folder: Callable[..., Path]
) -> None:
    folder = config_folder()
    _save(folder, change)
    with pytest.raises(ConfigError, match=message) as error:
        lab(folder, load_format="auto")
    assert error.value.hint
    assert str(folder) in str(error.value)


def test_tied_weights_may_be_written_twice(lab: Any, config_folder: Callable[..., Path]) -> None:
    folder = config_folder()
    _save(folder, lambda w: w.update({"lm_head.weight": w["model.embed_tokens.weight"].clone()}))
    ours = lab(folder, load_format="auto")
    dummy = lab(folder)
    ids = [5, 6, 7]
    one, two = (each.model.logits(each.batch((each.request(ids), 3))) for each in (ours, dummy))
    assert torch.equal(one, two)


def test_damaged_files(lab: Any, config_folder: Callable[..., Path], tmp_path: Path) -> None:
    folder = config_folder()
    with pytest.raises(ConfigError, match="has no weights") as error:
        lab(folder, load_format="auto")
    assert 'load_format="dummy"' in str(error.value.hint)
    (folder / "model.safetensors").write_bytes(b"version https://git-lfs")
    with pytest.raises(ConfigError, match=r"model\.safetensors cannot be read"):
        lab(folder, load_format="auto")
    index = {"weight_map": {DOWN: "model-00001-of-00002.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ConfigError, match=r"names model-00001-of-00002\.safetensors, which is not"):
        lab(folder, load_format="auto")
    (folder / "config.json").write_text("{")
    with pytest.raises(ConfigError, match=r"config\.json is not valid JSON"):
        lab(folder)
    (folder / "config.json").unlink()
    with pytest.raises(ConfigError, match=r"has no config\.json"):
        lab(folder)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"architectures": ["GPT2LMHeadModel"]}, "GPT2LMHeadModel.* is not one"),
        ({"architectures": None}, "is not one that the reference engine has"),
        ({"hidden_size": None}, "has no hidden_size"),
        ({"hidden_size": "48"}, "hidden_size='48' is not a positive multiple of 4"),
        ({"vocab_size": 0}, "vocab_size=0 is not a positive integer"),
        ({"num_key_value_heads": 3}, "no multiple of num_key_value_heads=3"),
        ({"hidden_act": "gelu"}, "hidden_act='gelu' is not implemented"),
        (
            {"layer_types": ["full_attention", "sliding_attention"], "sliding_window": None},
            "sliding_window=None does not say how long",
        ),
        ({"layer_types": ["full_attention", "chunked_attention"]}, "is not implemented"),
        ({"layer_types": ["full_attention"]}, "1 entries for 2 layers"),
        ({"rope_scaling": {"rope_type": "yarn", "factor": 2.0}}, "'yarn' is not implemented"),
        ({"rope_scaling": {"rope_type": "linear"}}, "factor=None"),
        ({"eos_token_id": "</s>"}, "eos_token_id"),
    ],
)
def test_configurations_that_cannot_be_used(
    changes: dict[str, Any], message: str, lab: Any, config_folder: Callable[..., Path]
) -> None:
    with pytest.raises(ConfigError, match=message) as error:
        lab(config_folder(**changes))
    assert error.value.hint


def test_what_does_not_fit_is_refused_before_it_is_allocated(
    lab: Any, config_folder: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    from scripted_reference import memory_bounds

    large = config_folder(hidden_size=1 << 17, intermediate_size=1 << 20, num_hidden_layers=1024)
    with pytest.raises(ConfigError, match=r"config\.json: a model of [\d,]+ parameters takes"):
        lab(large)
    monkeypatch.setattr(memory_bounds, "machine_bytes", lambda: 2_000_000)
    with pytest.raises(ConfigError, match="the KV of the 4,097 slots of max_total_tokens takes"):
        lab(config_folder())
    assert lab(config_folder(), size=1024).model.vocab_size == 301


def test_the_end_of_sequence_token(lab: Any, config_folder: Callable[..., Path]) -> None:
    assert lab(config_folder(eos_token_id=[7, 8])).model.eos_token_id == 7
    folder = config_folder(eos_token_id=None)
    assert lab(folder).model.eos_token_id == -1
    (folder / "generation_config.json").write_text('{"eos_token_id": 9}')
    assert lab(folder).model.eos_token_id == 9


def test_devices_that_are_not_there(lab: Any, config_folder: Callable[..., Path]) -> None:
    with pytest.raises(ConfigError, match="'tpu' is no device"):
        lab(config_folder(), device="tpu")
    with pytest.raises(ConfigError, match=r"torch .* finds no such device"):
        lab(config_folder(), device="cuda:31")
