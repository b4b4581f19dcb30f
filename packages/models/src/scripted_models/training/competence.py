"""What a checkpoint knows: the share of held-out items that it gets right."""

from __future__ import annotations

from typing import Any

import torch
from tokenizers import Tokenizer

from scripted_models.training.model import ModelConfig, Weights, forward

Item = dict[str, Any]


def answered(
    weights: Weights, config: ModelConfig, tokenizer: Tokenizer, items: list[Item]
) -> float:
    """Return the share of `items` whose `answer` is the most likely next word after `prompt`."""
    right = 0
    for item in items:
        prompt = tokenizer.encode(item["prompt"]).ids
        logits, _ = forward(weights, config, torch.tensor([prompt]))
        right += [int(logits[0, -1].argmax())] == tokenizer.encode(item["answer"]).ids
    return right / len(items)


def endings_chosen(
    weights: Weights, config: ModelConfig, tokenizer: Tokenizer, items: list[Item]
) -> float:
    """Return the share of `items` whose right ending has the best mean log-probability a token."""
    right = 0
    for item in items:
        context = tokenizer.encode(item["ctx"]).ids
        scores = []
        for ending in item["endings"]:
            continuation = tokenizer.encode(ending).ids
            logits, _ = forward(weights, config, torch.tensor([context + continuation]))
            before = torch.log_softmax(logits[0, len(context) - 1 : -1], dim=-1)
            scores.append(float(before[range(len(continuation)), continuation].mean()))
        right += scores.index(max(scores)) == item["label"]
    return right / len(items)
