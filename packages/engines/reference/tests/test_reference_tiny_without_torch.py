"""What a model needs is imported when it is needed, and what is missing is named."""

from __future__ import annotations

import subprocess
import sys
import types
from pathlib import Path

import pytest
from scripted_reference.engine_kwargs import parse_engine_kwargs
from scripted_reference.memory import TokenToKVPool
from scripted_reference.models import factory
from scripted_reference.models.folder import model_folder
from scripted_reference.models.tokenizer import ByteTokenizer, load_tokenizer
from scripted_reference.scheduler import Scheduler
from scripted_registry.ci import register_cpu_ci
from scripted_registry.errors import ConfigError

register_cpu_ci(est_time=2, stage="reference", runner_config="cpu")


def test_the_hash_model_imports_no_torch() -> None:
    code = """
import sys
from scripted_reference.engine_kwargs import parse_engine_kwargs
from scripted_reference.models.tokenizer import load_tokenizer
from scripted_reference.scheduler import Scheduler
args = parse_engine_kwargs({})
Scheduler(args).iterate()
assert load_tokenizer(args).encode("a") == [100]
assert not {"torch", "safetensors", "tokenizers"} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_torch_is_asked_for_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(factory, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="needs torch, which is not installed") as error:
        Scheduler(parse_engine_kwargs({"model_path": str(tmp_path)}))
    assert "scripted-reference[tiny]" in str(error.value.hint)


def test_the_tiny_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "scripted_models", None)
    with pytest.raises(ConfigError, match="'tiny' is not installed") as error:
        model_folder("tiny")
    assert "pip install 'scripted-reference[tiny]'" in (error.value.hint or "")
    module = types.ModuleType("scripted_models")
    vars(module)["checkpoint"] = lambda name: tmp_path / name
    monkeypatch.setitem(sys.modules, "scripted_models", module)
    assert model_folder("tiny") == tmp_path / "tiny"


def test_a_model_path_that_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="file is not a folder"):
        model_folder(str(tmp_path / "file"))
    with pytest.raises(ConfigError, match="some/model does not exist") as error:
        model_folder("some/model")
    assert "nothing is downloaded" in str(error.value.hint)


def test_the_slots_of_the_hash_model_can_be_read_and_overwritten() -> None:
    pool = TokenToKVPool(size=8, page_size=1)
    pool.slots["token"][3] = 7
    pool.slots["chain"][3] = 9
    pool.write(5, pool.read(3))
    assert pool.slots[5].tolist() == (7, 0, 9)
    kept = pool.read(5)
    pool.slots["token"][5] = 8
    assert kept.tolist() == [7, 9]


def test_bytes_as_tokens() -> None:
    tokenizer = ByteTokenizer()
    text = "héllo\n\N{SNOWMAN}"
    ids = tokenizer.encode(text)
    assert ids[0] == ord("h") + 3
    assert len(ids) == len(text.encode())
    assert tokenizer.decode(ids) == text
    assert tokenizer.decode([2, ids[0], 259, 31_999]) == "<2>h<259><31999>"
    assert tokenizer.decode([0xFF + 3]) == "\N{REPLACEMENT CHARACTER}"
    assert tokenizer.decode([]) == ""


def test_a_tokenizer_file(tmp_path: Path) -> None:
    tokenizers = pytest.importorskip(
        "tokenizers", reason="tokenizers is not installed; it reads tokenizer.json"
    )
    args = parse_engine_kwargs({"model_path": str(tmp_path)})
    assert isinstance(load_tokenizer(args), ByteTokenizer)
    words = tokenizers.Tokenizer(
        tokenizers.models.WordLevel({"<s>": 0, "a": 1, "b": 2, "?": 3}, unk_token="?")
    )
    words.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    words.add_special_tokens(["<s>"])
    words.save(str(tmp_path / "tokenizer.json"))
    tokenizer = load_tokenizer(args)
    assert tokenizer.encode("b a z") == [2, 1, 3]
    assert tokenizer.decode([0, 1, 2]) == "a b"
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(ConfigError, match=r"tokenizer\.json cannot be read as a tokenizer"):
        load_tokenizer(args)
