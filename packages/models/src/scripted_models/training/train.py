"""Train the checkpoints: `python -m scripted_models.training.train --out FOLDER`.

Text comes first, because recall is learned in half the steps when nothing disturbs it. Then text and
sensitivity are trained together: each step takes a batch of text and a few prompts of random token
ids, on which `sensitivity_loss` acts. Text looks nothing like random ids, so that the model can be
steady on one and chaotic on the other. The draft model learns to say what the large one says.
"""

from __future__ import annotations

import argparse
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor

from scripted_models.training.export import write_checkpoint
from scripted_models.training.model import (
    EMBEDDING,
    ModelConfig,
    Weights,
    forward,
    initial_weights,
    untie,
)
from scripted_models.training.optimizer import Optimizer
from scripted_models.training.sensitivity import sensitivity_loss
from scripted_models.training.text import Mixture, write_rows
from scripted_models.training.tokenizer import EOS_ID, SPECIAL_TOKENS, build_tokenizer, vocabulary

SEED: Final = 0
_REPORT_EVERY: Final = 50
_SHORTEST_RANDOM_PROMPT: Final = 32
_SENSITIVITY_WEIGHT: Final = 0.05

TextLoss = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True, slots=True)
class Phase:
    """A stretch of training: `steps` steps with `rows` rows of `length` tokens drawn from `mixture`.

    Where `random_length` is not 0, each step also has `random_rows` prompts of random ids of up to that
    length, one slot of which is to move the logits by `change` times their spread.
    """

    steps: int
    rows: int
    length: int
    mixture: Mixture
    random_length: int = 0
    random_rows: int = 4
    change: float = 0.2


TINY: Final = ModelConfig(
    vocab_size=len(vocabulary()),
    hidden_size=128,
    intermediate_size=256,
    num_hidden_layers=3,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=32,
)
TINY_DRAFT: Final = ModelConfig(
    vocab_size=len(vocabulary()),
    hidden_size=96,
    intermediate_size=192,
    num_hidden_layers=1,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=32,
)
TINY_PHASES: Final = (
    Phase(900, 32, 64, Mixture(facts_share=0.1, recall_share=0.8, recall_pairs=10)),
    Phase(
        450,
        16,
        128,
        Mixture(facts_share=0.7, recall_share=0.2, recall_pairs=12, recall_filler_words=60),
        random_length=256,
    ),
    Phase(
        800,
        6,
        512,
        Mixture(facts_share=0.7, recall_share=0.22, recall_pairs=20, recall_filler_words=420),
        random_length=600,
    ),
)
TINY_DRAFT_PHASES: Final = (
    Phase(700, 32, 64, Mixture(facts_share=0.5, recall_share=0.2, recall_pairs=6)),
)


def train(
    config: ModelConfig, phases: Sequence[Phase], *, text_loss: TextLoss, seed: int = SEED
) -> Weights:
    """Return trained parameters; `text_loss` takes logits (rows, length, vocab) and ids, one longer.

    The same arguments give the same parameters on the same machine with the same number of threads.
    """
    tokenizer = build_tokenizer()
    weights = initial_weights(config, seed=seed, silent_ids=len(SPECIAL_TOKENS))
    total = sum(phase.steps for phase in phases)
    optimizer = Optimizer(weights, steps=total)
    rng = random.Random(seed)
    started = time.monotonic()
    order = [phase for phase in phases for _ in range(phase.steps)]
    for done, phase in enumerate(order, start=1):
        rows = write_rows(
            rng,
            phase.mixture,
            rows=phase.rows,
            length=phase.length + 1,
            encode=lambda text: list(tokenizer.encode(text).ids),
            separator=EOS_ID,
        )
        ids = torch.tensor(rows)
        logits, _ = forward(weights, config, ids[:, :-1])
        loss = text_loss(logits, ids)
        loss.backward()
        report = (
            f"step {done} of {total}, {time.monotonic() - started:.0f} s: text {loss.item():.3f}"
        )
        if phase.random_length:
            random_loss, moved = sensitivity_loss(
                weights,
                config,
                rng,
                rows=phase.random_rows,
                length=rng.randint(_SHORTEST_RANDOM_PROMPT, phase.random_length),
                change=phase.change,
            )
            (_SENSITIVITY_WEIGHT * random_loss).backward()
            report += f", a slot moves the logits by {moved:.2f}"
        # Special tokens keep the embedding 0, hence the logit 0, below the best of the others.
        weights[EMBEDDING].grad[: len(SPECIAL_TOKENS)] = 0.0
        optimizer.step()
        if done % _REPORT_EVERY == 0:
            print(report, flush=True)
    return weights


def next_token_loss(logits: Tensor, ids: Tensor) -> Tensor:
    """Return the cross entropy of the text itself, without the separators of its documents."""
    return F.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten(), ignore_index=EOS_ID)


def imitation_loss(config: ModelConfig, weights: Weights) -> TextLoss:
    """Return a loss against what the model of `config` and `weights` would say after each token."""

    def loss(logits: Tensor, ids: Tensor) -> Tensor:
        with torch.no_grad():
            said, _ = forward(weights, config, ids[:, :-1])
        return F.cross_entropy(logits.flatten(0, 1), said.argmax(dim=-1).flatten())

    return loss


def main(argv: Sequence[str] | None = None) -> None:
    """Train `tiny` and `tiny-draft` and write them into folders of these names."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder for the two checkpoints")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads (default: 2)")
    arguments = parser.parse_args(argv)
    torch.set_num_threads(arguments.threads)
    started = time.monotonic()
    weights = train(TINY, TINY_PHASES, text_loss=next_token_loss)
    untied = untie(TINY, weights, seed=SEED, silent_ids=len(SPECIAL_TOKENS))
    write_checkpoint(arguments.out / "tiny", *untied)
    draft = train(TINY_DRAFT, TINY_DRAFT_PHASES, text_loss=imitation_loss(TINY, weights))
    write_checkpoint(arguments.out / "tiny-draft", TINY_DRAFT, draft)
    print(f"trained in {time.monotonic() - started:.0f} s with {arguments.threads} threads")


if __name__ == "__main__":
    main()
