"""LoRA adapters: they do what merged weights do, for the requests that asked, and for no other."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from scripted_registry.ci import register_cpu_ci
from scripted_registry.errors import ConfigError

register_cpu_ci(est_time=2, stage="reference", runner_config="cpu")

torch = pytest.importorskip("torch", reason="torch is not installed; the tiny model needs it")

Prompt = Callable[[object, int], list[int]]

RANK = 4
CONFIG = {"peft_type": "LORA", "r": RANK, "lora_alpha": 6, "target_modules": ["q_proj"]}


def _write_adapter(
    folder: Path, model: Path, names: list[str], *, seed: int = 0, **config: Any
) -> Path:
    from safetensors.torch import save_file
    from scripted_reference.models.config import read_config
    from scripted_reference.models.weights import projection_shapes

    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    shapes = projection_shapes(read_config(model))
    for layer in (0, 1):
        for name in names:
            (out_size, in_size), _ = shapes[name]
            prefix = f"base_model.model.model.layers.{layer}.{name}"
            for half, shape in (("A", (RANK, in_size)), ("B", (out_size, RANK))):
                tensors[f"{prefix}.lora_{half}.weight"] = (
                    torch.randn(shape, generator=generator) / 6
                )
    folder.mkdir(exist_ok=True)
    save_file(tensors, folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text(json.dumps({**CONFIG, **config}))
    return folder


def _merge(model: Path, adapter: Path, target: Path, *, scale: float) -> Path:
    from safetensors.torch import load_file, save_file
    from scripted_reference.models.config import read_config
    from scripted_reference.models.weights import dummy_weights

    weights = dummy_weights(read_config(model), seed=0)
    tensors = load_file(adapter / "adapter_model.safetensors")
    for name, down in tensors.items():
        if ".lora_A." in name:
            up = tensors[name.replace(".lora_A.", ".lora_B.")]
            plain = name.removeprefix("base_model.model.").replace(".lora_A", "")
            weights[plain] = weights[plain] + scale * (up @ down)
    target.mkdir()
    (target / "config.json").write_text((model / "config.json").read_text())
    save_file(weights, target / "model.safetensors")
    return target


ALL = ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj"]
ALL += ["mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"]


@pytest.mark.parametrize(
    ("names", "config", "scale"),
    [
        (ALL, {}, 1.5),
        (["self_attn.k_proj"], {}, 1.5),
        (["self_attn.q_proj", "self_attn.v_proj", "mlp.up_proj"], {"use_rslora": True}, 3.0),
        (["mlp.down_proj"], {"lora_alpha": 2}, 0.5),
    ],
)
def test_an_adapter_does_what_merged_weights_do(
    names: list[str],
    config: dict[str, Any],
    scale: float,
    lab: Any,
    config_folder: Callable[..., Path],
    tmp_path: Path,
    random_prompt: Prompt,
    device: str,
) -> None:
    model = config_folder()
    adapter = _write_adapter(tmp_path / "adapter", model, names, **config)
    merged = lab(_merge(model, adapter, tmp_path / "merged", scale=scale), load_format="auto")
    it = lab(model, lora_paths={"mine": str(adapter)}, device=device)
    assert it.model.lora_names == {"mine"}
    ids = random_prompt("p", 50)
    wanted = merged.model.logits(merged.batch((merged.request(ids), 50)))
    plain = it.model.logits(it.batch((it.request(ids), 50)))
    got = it.model.logits(it.batch((it.request(ids, lora_path="mine"), 50)))
    torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-4)
    assert (got - plain).abs().max() > 0.1, "the adapter has to matter"


def test_adapters_do_not_touch_their_neighbours(
    lab: Any,
    config_folder: Callable[..., Path],
    tmp_path: Path,
    random_prompt: Prompt,
    device: str,
) -> None:
    model = config_folder()
    one = _write_adapter(tmp_path / "one", model, ALL, seed=1)
    two = _write_adapter(tmp_path / "two", model, ALL[:2], seed=2)
    it = lab(model, lora_paths={"one": str(one), "two": str(two)}, device=device)
    bare = lab(model, device=device)
    ids = random_prompt("p", 21)
    alone = {
        name: each.model.logits(each.batch((each.request(ids, lora_path=name), 21)))
        for name, each in (("one", it), ("two", it), (None, bare))
    }
    order = ["two", None, "one", None, "two"]
    parts = [(it.request(ids, lora_path=name), 21) for name in order]
    together = it.model.logits(it.batch(*parts)).split(21)
    for name, logits in zip(order, together, strict=True):
        torch.testing.assert_close(logits, alone[name], rtol=0, atol=0)
    assert not torch.equal(alone["one"], alone["two"])


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"r": 3}, "the shape 4x92, but r=3 and .* ask for 3x92"),
        ({"r": "4"}, "r='4' is not a positive integer"),
        ({"lora_alpha": None}, "lora_alpha=None is not a number"),
        ({"use_dora": True}, "use_dora=True is not implemented"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
    ],
)
def test_adapters_that_cannot_be_used(
    config: dict[str, Any],
    message: str,
    lab: Any,
    config_folder: Callable[..., Path],
    tmp_path: Path,
) -> None:
    model = config_folder()
    adapter = _write_adapter(tmp_path / "adapter", model, ALL, **config)
    with pytest.raises(ConfigError, match=message) as error:
        lab(model, lora_paths={"mine": str(adapter)})
    assert error.value.hint
    assert str(adapter) in str(error.value)


def test_adapters_that_are_not_there_or_of_another_model(
    lab: Any, config_folder: Callable[..., Path], tmp_path: Path
) -> None:
    from safetensors.torch import load_file, save_file

    model = config_folder()
    with pytest.raises(ConfigError, match=r"'mine' is to be in .*nowhere, which is no folder"):
        lab(model, lora_paths={"mine": str(tmp_path / "nowhere")})
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match=r"'mine' in .*empty has no adapter_config\.json"):
        lab(model, lora_paths={"mine": str(tmp_path / "empty")})
    adapter = _write_adapter(tmp_path / "adapter", model, ALL)
    file = adapter / "adapter_model.safetensors"
    tensors = load_file(file)
    name = "base_model.model.model.layers.1.mlp.up_proj.lora_A.weight"
    for new_name in (name.replace("layers.1", "layers.7"), name.replace("mlp.up", "mlp.side")):
        save_file({**tensors, new_name: tensors[name].clone()}, file)
        with pytest.raises(ConfigError, match="adapts nothing that this model has"):
            lab(model, lora_paths={"mine": str(adapter)})
    del tensors[name]
    save_file(tensors, file)
    with pytest.raises(ConfigError, match=r"has lora_B but not lora_A of mlp\.up_proj in layer 1"):
        lab(model, lora_paths={"mine": str(adapter)})
