"""Whether a corrupted KV slot shows: trials, and the training loss that makes it show.

A trial prefills a prompt of random token ids, replaces keys and values of one slot in every layer
and decodes greedily. If the output is that of the clean cache, a bug that swaps or overwrites a slot
would pass unseen.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

import torch
from torch import Tensor

from scripted_models.training.model import (
    LayerCache,
    ModelConfig,
    Weights,
    decode_greedily,
    forward,
)

DECODED_TOKENS: Final = 32
_BATCH_ROWS: Final = 25
_SMALLEST_CHANGE: Final = 1e-6


class Corruption(StrEnum):
    """What takes the place of a slot: nothing (the control), or another slot."""

    NONE = "none"
    SAME_PROMPT = "same prompt"
    OTHER_PROMPT = "other prompt"


@dataclass(frozen=True, slots=True)
class Trials:
    """The outcome of `trials` trials: in how many the output differed, and what came out.

    `special` counts special tokens and `distinct` the mean number of different tokens in a clean
    output of `DECODED_TOKENS`.
    """

    trials: int
    differed: int
    special: int
    distinct: float

    @property
    def rate(self) -> float:
        """The share of trials in which the output differed."""
        return self.differed / self.trials


def random_prompts(rng: random.Random, config: ModelConfig, *, rows: int, length: int) -> Tensor:
    """Return prompts (rows, length) of ids from 1 to the last of the vocabulary."""
    ids = [[rng.randint(1, config.vocab_size - 1) for _ in range(length)] for _ in range(rows)]
    return torch.tensor(ids)


def corrupt(
    rng: random.Random, caches: list[LayerCache], *, prompt: int, corruption: Corruption
) -> list[LayerCache]:
    """Return the caches with one slot of the first `prompt` replaced in each row, all layers alike.

    Row and slot of the replacement are those of a clean cache; every row is drawn for itself.
    """
    rows = caches[0][0].shape[0]
    if corruption is Corruption.NONE:
        return caches
    slots = [rng.randrange(prompt) for _ in range(rows)]
    if corruption is Corruption.SAME_PROMPT:
        donors = list(range(rows))
        sources = [(slot + rng.randrange(1, prompt)) % prompt for slot in slots]
    else:
        donors = [(row + rng.randrange(1, rows)) % rows for row in range(rows)]
        sources = [rng.randrange(prompt) for _ in range(rows)]
    every = list(range(rows))
    corrupted = []
    for cache in caches:
        keys, values = cache[0].clone(), cache[1].clone()
        keys[every, :, slots] = cache[0][donors, :, sources]
        values[every, :, slots] = cache[1][donors, :, sources]
        corrupted.append((keys, values))
    return corrupted


def run_trials(
    weights: Weights,
    config: ModelConfig,
    *,
    length: int,
    trials: int,
    corruption: Corruption,
    seed: int,
    special_ids: int,
) -> Trials:
    """Run `trials` seeded trials with prompts of `length` tokens.

    `special_ids` is how many ids from 0 on are special tokens.
    """
    rng = random.Random(f"{seed}-{length}-{corruption}")
    differed = special = distinct = done = 0
    while done < trials:
        rows = min(_BATCH_ROWS, trials - done)
        # One row more than needed, so that a last single row has another prompt to take from.
        logits, caches = forward(
            weights, config, random_prompts(rng, config, rows=rows + 1, length=length)
        )
        changed = corrupt(rng, caches, prompt=length, corruption=corruption)
        last = logits[:, -1]
        clean = decode_greedily(weights, config, last, caches, tokens=DECODED_TOKENS)[:rows]
        other = decode_greedily(weights, config, last, changed, tokens=DECODED_TOKENS)[:rows]
        differed += int((clean != other).any(dim=1).sum())
        special += int((clean < special_ids).sum())
        distinct += sum(len(set(row)) for row in clean.tolist())
        done += rows
    return Trials(trials, differed, special, distinct / trials)


def sensitivity_loss(
    weights: Weights,
    config: ModelConfig,
    rng: random.Random,
    *,
    rows: int,
    length: int,
    change: float,
) -> tuple[Tensor, float]:
    """Return a loss that is 0 once a corrupted slot moves the logits enough, and by how much it does.

    "Enough" is a movement of `change` times the logits' own spread, both as standard deviations over
    the vocabulary, at each step of a greedy continuation of `rows` prompts of `length` tokens.
    """
    prompts = random_prompts(rng, config, rows=rows, length=length)
    with torch.no_grad():
        logits, caches = forward(weights, config, prompts)
        decoded = decode_greedily(weights, config, logits[:, -1], caches, tokens=DECODED_TOKENS)
    clean, caches = forward(weights, config, torch.cat([prompts, decoded], dim=1))
    clean = clean[:, length:]
    prompt_caches = [(keys[:, :, :length], values[:, :, :length]) for keys, values in caches]
    corruption = rng.choice([Corruption.SAME_PROMPT, Corruption.OTHER_PROMPT])
    changed = corrupt(rng, prompt_caches, prompt=length, corruption=corruption)
    other, _ = forward(weights, config, decoded, changed)
    moved = other.sub(clean).std(dim=-1) / clean.std(dim=-1)
    shortfall = torch.relu(torch.log(change / moved.clamp_min(_SMALLEST_CHANGE))).mean()
    return shortfall, float(moved.detach().median())
