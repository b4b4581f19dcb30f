"""The committed checkpoints do what their cards say; a small part of `training.evaluate`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from scripted_registry.ci import register_cpu_ci

register_cpu_ci(est_time=200, stage="unit", runner_config="cpu")

torch = pytest.importorskip("torch", reason="the checkpoints are run with torch")
pytest.importorskip("tokenizers", reason="text becomes tokens with tokenizers")
pytest.importorskip("safetensors", reason="the weights are read with safetensors")

from scripted_models import CHECKPOINTS, checkpoint  # noqa: E402
from scripted_models.training.acceptance import accept_lengths  # noqa: E402
from scripted_models.training.competence import answered, endings_chosen  # noqa: E402
from scripted_models.training.evaluate import read_items  # noqa: E402
from scripted_models.training.export import read_checkpoint, write_checkpoint  # noqa: E402
from scripted_models.training.model import EMBEDDING, decode_greedily, forward  # noqa: E402
from scripted_models.training.sensitivity import Corruption, run_trials  # noqa: E402
from scripted_models.training.text import Mixture  # noqa: E402
from scripted_models.training.tokenizer import (  # noqa: E402
    EOS_ID,
    SPECIAL_TOKENS,
    load_tokenizer,
)
from scripted_models.training.train import (  # noqa: E402
    TINY_DRAFT,
    Phase,
    next_token_loss,
    train,
)


@pytest.mark.parametrize("corruption", [Corruption.SAME_PROMPT, Corruption.OTHER_PROMPT])
def test_one_corrupted_slot_changes_the_output(corruption: Corruption) -> None:
    config, weights = read_checkpoint(checkpoint("tiny"))
    outcome = run_trials(
        weights,
        config,
        length=256,
        trials=50,
        corruption=corruption,
        seed=1,
        special_ids=len(SPECIAL_TOKENS),
    )
    assert outcome.rate >= 0.98
    assert outcome.special == 0


def test_an_untouched_cache_changes_nothing() -> None:
    config, weights = read_checkpoint(checkpoint("tiny"))
    outcome = run_trials(
        weights,
        config,
        length=64,
        trials=50,
        corruption=Corruption.NONE,
        seed=1,
        special_ids=len(SPECIAL_TOKENS),
    )
    assert outcome.differed == 0
    assert outcome.distinct > 8


def test_held_out_items_are_answered() -> None:
    config, weights = read_checkpoint(checkpoint("tiny"))
    tokenizer = load_tokenizer(checkpoint("tiny"))
    assert answered(weights, config, tokenizer, read_items("facts")[::4]) >= 0.9
    assert answered(weights, config, tokenizer, read_items("recall")[:30]) >= 0.8
    assert endings_chosen(weights, config, tokenizer, read_items("hellaswag")[:30]) >= 0.7


def test_the_draft_model_is_accepted() -> None:
    target, draft = (read_checkpoint(checkpoint(name)) for name in CHECKPOINTS)
    tokenizer = load_tokenizer(checkpoint("tiny"))
    lengths: list[int] = []
    for item in read_items("hellaswag")[:10] + read_items("facts")[:10]:
        prompt = tokenizer.encode(item.get("ctx") or item["prompt"]).ids
        lengths += accept_lengths(target, draft, prompt, tokens=32, end_id=EOS_ID)
    assert sum(lengths) / len(lengths) > 1.8
    # The target as its own draft is always right.
    assert set(accept_lengths(target, target, [5, 6, 7], tokens=32, end_id=EOS_ID)) == {5}


def test_a_few_steps_of_training_lower_the_loss(tmp_path: Path) -> None:
    config = replace(TINY_DRAFT, hidden_size=32, intermediate_size=32, head_dim=16)
    losses: list[float] = []

    def loss(logits: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
        value = next_token_loss(logits, ids)
        losses.append(value.item())
        return value

    phases = [Phase(15, 8, 32, Mixture()), Phase(5, 8, 32, Mixture(), random_length=40)]
    weights = train(config, phases, text_loss=loss)
    assert sum(losses[-3:]) < 0.9 * sum(losses[:3])
    write_checkpoint(tmp_path, config, weights)
    read_config, read_weights = read_checkpoint(tmp_path)
    assert read_config == config
    embedding = read_weights[EMBEDDING]
    assert torch.equal(embedding, weights[EMBEDDING].detach())
    silent = (embedding == 0).all(dim=1)
    assert silent.tolist() == [n < len(SPECIAL_TOKENS) for n in range(config.vocab_size)]


def test_any_text_survives_the_tokenizer() -> None:
    tokenizer = load_tokenizer(checkpoint("tiny"))
    known = "the capital of arvenia is"
    assert len(tokenizer.encode(known).ids) == len(known.split())
    for text in (known, "Hello, World! 12+3", "a\N{LATIN SMALL LETTER O WITH DIAERESIS}\n two  b"):
        assert tokenizer.decode(tokenizer.encode(text).ids) == text


def test_a_prompt_of_a_special_token_gets_an_output_without_one() -> None:
    config, weights = read_checkpoint(checkpoint("tiny"))
    prompts = torch.arange(1, len(SPECIAL_TOKENS))[:, None].expand(-1, 16)
    logits, caches = forward(weights, config, prompts)
    said = decode_greedily(weights, config, logits[:, -1], caches, tokens=32)
    assert int(said.min()) >= len(SPECIAL_TOKENS)


def test_decoding_with_a_cache_equals_the_whole_forward() -> None:
    config, weights = read_checkpoint(checkpoint("tiny"))
    prompt = torch.arange(10, 74)[None]
    logits, caches = forward(weights, config, prompt)
    said = decode_greedily(weights, config, logits[:, -1], caches, tokens=8)
    whole, _ = forward(weights, config, torch.cat([prompt, said], dim=1))
    assert torch.equal(whole[0, 63:-1].argmax(dim=-1), said[0])


def test_logits_equal_those_of_transformers() -> None:
    transformers = pytest.importorskip("transformers", reason="compared with transformers")
    for name in CHECKPOINTS:
        config, weights = read_checkpoint(checkpoint(name))
        model = transformers.Qwen3ForCausalLM.from_pretrained(
            checkpoint(name), dtype=torch.float32, attn_implementation="eager"
        )
        ids = torch.arange(4, 204)[None]
        with torch.no_grad():
            expected = model(ids).logits
        found, _ = forward(weights, config, ids)
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-3)
