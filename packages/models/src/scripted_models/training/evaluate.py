"""Measure a checkpoint: `python -m scripted_models.training.evaluate`.

Prints the tables of the model cards, as Markdown.
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import torch
from tokenizers import Tokenizer

from scripted_models import DATASETS, checkpoint, dataset
from scripted_models.training.acceptance import DRAFT_TOKENS, Model, accept_lengths
from scripted_models.training.competence import answered, endings_chosen
from scripted_models.training.export import read_checkpoint
from scripted_models.training.model import decode_greedily, forward
from scripted_models.training.sensitivity import (
    DECODED_TOKENS,
    Corruption,
    random_prompts,
    run_trials,
)
from scripted_models.training.tokenizer import EOS_ID, SPECIAL_TOKENS, load_tokenizer

LENGTHS: Final = (32, 64, 128, 256, 512)
TRIALS: Final = 500
SEED: Final = 0
_LONG_OUTPUT: Final = 256
_LONG_OUTPUT_PROMPTS: Final = 100
_PRECISION_PROMPTS: Final = 200
_PRECISION_LENGTH: Final = 256
_ACCEPTANCE_PROMPTS: Final = 100
_ACCEPTANCE_TOKENS: Final = 48


def competence_table(model: Model, tokenizer: Tokenizer) -> Iterator[str]:
    """Yield the shares of held-out items that the model gets right."""
    config, weights = model
    yield from ("| held-out items | right |", "|---|---|")
    for name in DATASETS:
        items = read_items(name)
        measure = endings_chosen if name == "hellaswag" else answered
        right = measure(weights, config, tokenizer, items)
        yield f"| {name} ({len(items)}) | {_percent(right)} |"


def acceptance_table(target: Model, draft: Model, tokenizer: Tokenizer) -> Iterator[str]:
    """Yield the mean accept length on the prompts of each dataset."""
    yield from (f"| prompts | accept length, {DRAFT_TOKENS} draft tokens |", "|---|---|")
    every: list[int] = []
    for name in DATASETS:
        lengths: list[int] = []
        for item in read_items(name)[:_ACCEPTANCE_PROMPTS]:
            prompt = tokenizer.encode(item["ctx" if name == "hellaswag" else "prompt"]).ids
            lengths += accept_lengths(
                target, draft, prompt, tokens=_ACCEPTANCE_TOKENS, end_id=EOS_ID
            )
        yield f"| {name} | {sum(lengths) / len(lengths):.2f} |"
        every += lengths
    yield f"| all | {sum(every) / len(every):.2f} |"


def sensitivity_table(model: Model, *, trials: int) -> Iterator[str]:
    """Yield a row for each prompt length: the shares of outputs that differ, by corruption."""
    config, weights = model
    yield f"| prompt tokens | {' | '.join(Corruption)} | different tokens in an output |"
    yield "|---" * (len(Corruption) + 2) + "|"
    for length in LENGTHS:
        outcomes = [
            run_trials(
                weights,
                config,
                length=length,
                trials=trials,
                corruption=corruption,
                seed=SEED,
                special_ids=len(SPECIAL_TOKENS),
            )
            for corruption in Corruption
        ]
        rates = " | ".join(_percent(outcome.rate) for outcome in outcomes)
        yield f"| {length} | {rates} | {outcomes[0].distinct:.1f} |"


def output_table(model: Model) -> Iterator[str]:
    """Yield what greedy outputs after prompts without meaning are like."""
    config, weights = model
    rng = random.Random(SEED)
    yield from ("| prompts | outputs | share |", "|---|---|---|")
    prompts = {
        "random ids": random_prompts(rng, config, rows=_LONG_OUTPUT_PROMPTS, length=64),
        "one id 64 times, for each id": torch.arange(1, config.vocab_size)[:, None].expand(-1, 64),
    }
    for name, ids in prompts.items():
        logits, caches = forward(weights, config, ids)
        said = decode_greedily(weights, config, logits[:, -1], caches, tokens=_LONG_OUTPUT)
        plain = float((said >= len(SPECIAL_TOKENS)).all(dim=1).double().mean())
        yield f"| {name} | {_LONG_OUTPUT} tokens without a special one | {_percent(plain)} |"
    ids = random_prompts(rng, config, rows=_PRECISION_PROMPTS, length=_PRECISION_LENGTH)
    single, double = (_said_in(model, ids, dtype) for dtype in (torch.float32, torch.float64))
    equal = float((single == double).all(dim=1).double().mean())
    yield f"| random ids | {DECODED_TOKENS} tokens, float32 as float64 | {_percent(equal)} |"


def _said_in(model: Model, ids: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    config, weights = model
    cast = {name: weight.to(dtype) for name, weight in weights.items()}
    logits, caches = forward(cast, config, ids)
    return decode_greedily(cast, config, logits[:, -1], caches, tokens=DECODED_TOKENS)


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def read_items(name: str) -> list[dict[str, Any]]:
    """Return the items of a dataset of this package."""
    lines = dataset(name).read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def main(argv: Sequence[str] | None = None) -> None:
    """Print what the model cards say."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--checkpoint", type=Path, default=checkpoint("tiny"))
    parser.add_argument("--draft", type=Path, default=checkpoint("tiny-draft"))
    parser.add_argument("--trials", type=int, default=TRIALS, help="for each figure")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args(argv)
    torch.set_num_threads(arguments.threads)
    target, draft = read_checkpoint(arguments.checkpoint), read_checkpoint(arguments.draft)
    tokenizer = load_tokenizer(arguments.checkpoint)
    for table in (
        competence_table(target, tokenizer),
        acceptance_table(target, draft, tokenizer),
        sensitivity_table(target, trials=arguments.trials),
        output_table(target),
    ):
        for line in table:
            print(line, flush=True)
        print()


if __name__ == "__main__":
    main()
