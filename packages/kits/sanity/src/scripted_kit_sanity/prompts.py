"""Prompts whose outputs are compared: all tokens differ, so that every KV slot counts."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any, Final

from scripted_kit_client.client import Prompt, ServerClient
from scripted_kit_client.target import Api

from scripted_kit_sanity.questions import is_trained

_VOCABULARY: Final = 900
"""Token ids are drawn below it: the trained checkpoint has 915, every real model has more."""
_FIRST_WORD: Final = 400
_WORDS: Final = [
    "river",
    "stone",
    "lantern",
    "market",
    "winter",
    "bridge",
    "teacher",
    "garden",
    "silver",
    "train",
    "letter",
    "window",
    "mountain",
    "harbour",
    "bread",
    "evening",
    "violin",
    "forest",
    "captain",
    "mirror",
    "cloud",
    "orchard",
    "village",
    "summer",
    "road",
]


def different_tokens(client: ServerClient, *, count: int, seed: int) -> Prompt:
    """A prompt of `count` random tokens that are words; as text where only text is taken."""
    rng = random.Random(seed)
    if client.facts.api is Api.GENERATE and is_trained(client.facts.model):
        # The trained checkpoint changes its output for any one slot of such a prompt.
        return [rng.randrange(_FIRST_WORD, _VOCABULARY) for _ in range(count)]
    return different_words(count=count, seed=seed)


def different_words(*, count: int, seed: int) -> str:
    """A text of `count` words in a random order, with numbers between them."""
    rng = random.Random(seed)
    return " ".join(
        f"{rng.choice(_WORDS)} {rng.randrange(10, 1000)}" for _ in range((count + 1) // 2)
    )


def room_tokens(arguments: Mapping[str, Any]) -> int | None:
    """Tokens that prompt and output can have together; `None` when the server does not tell."""
    told = [
        arguments.get(name)
        for name in ("context_length", "max_total_num_tokens", "max_req_input_len")
    ]
    return min((value for value in told if isinstance(value, int)), default=None)
