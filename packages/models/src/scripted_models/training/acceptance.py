"""How far the draft model guesses right: the accept length of greedy speculative decoding.

Source: Leviathan et al., "Fast Inference from Transformers via Speculative Decoding", 2023. With
greedy decoding a draft is accepted exactly as long as it is what the large model would have said.
"""

from __future__ import annotations

from typing import Final

import torch

from scripted_models.training.model import ModelConfig, Weights, decode_greedily, forward

DRAFT_TOKENS: Final = 4
Model = tuple[ModelConfig, Weights]


def accept_lengths(
    target: Model, draft: Model, prompt: list[int], *, tokens: int, end_id: int
) -> list[int]:
    """Return what each verification yields: accepted drafts and one token of the target's own.

    The target says up to `tokens` tokens after `prompt`, fewer if `end_id` is among them; the draft
    model proposes `DRAFT_TOKENS` at a time. A last verification without room for all is left out.
    """
    said = _continue(target, prompt, tokens)
    if end_id in said:
        said = said[: said.index(end_id) + 1]
    lengths = []
    position = 0
    while position + DRAFT_TOKENS < len(said):
        guess = _continue(draft, prompt + said[:position], DRAFT_TOKENS)
        accepted = 0
        while accepted < DRAFT_TOKENS and guess[accepted] == said[position + accepted]:
            accepted += 1
        lengths.append(accepted + 1)
        position += accepted + 1
    return lengths


def _continue(model: Model, prompt: list[int], tokens: int) -> list[int]:
    config, weights = model
    logits, caches = forward(weights, config, torch.tensor([prompt]))
    decoded = decode_greedily(weights, config, logits[:, -1], caches, tokens=tokens)
    continuation: list[int] = decoded[0].tolist()
    return continuation
