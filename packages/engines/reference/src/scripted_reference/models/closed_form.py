"""What the `hash` model has to output, computed without a pool, a scheduler or NumPy.

Python integers and one pass over the tokens: no code is shared with the model but its constants.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from scripted_reference.models.hash_weights import (
    EOS_TOKEN_ID,
    MASK_64,
    VOCAB_SIZE,
    HashWeights,
    mix64,
    sampling_offset,
    splitmix64,
)
from scripted_reference.models.temperature import GREEDY_BELOW


def expected_output(
    prompt_ids: Sequence[int],
    n: int,
    vocab_size: int = VOCAB_SIZE,
    seed: int = 0,
    *,
    ignore_eos: bool = True,
    stop_token_ids: Collection[int] = (),
    temperature: float | None = None,
    sampling_seed: int | None = None,
) -> list[int]:
    """Return the first `n` tokens that the `hash` model generates after `prompt_ids`.

    With `ignore_eos=False` it ends, as a request does, with the first end-of-sequence token or member
    of `stop_token_ids`, which is included. `seed` is the engine's `random_seed`; with a `temperature`
    from `GREEDY_BELOW` on the tokens are those that the request's `sampling_seed` gives, `seed` by
    default.
    """
    weights = HashWeights.from_seed(seed)
    stops = frozenset() if ignore_eos else frozenset((EOS_TOKEN_ID, *stop_token_ids))
    chain = 0
    total = weights.output_offset
    if temperature is not None and temperature >= GREEDY_BELOW:
        total = sampling_offset(seed if sampling_seed is None else sampling_seed)
    tokens = list(prompt_ids)
    output: list[int] = []
    position = 0
    while len(output) < n:
        while position < len(tokens):
            word = (tokens[position] + (position << 32)) & MASK_64
            chain = (
                chain * weights.growth + word * weights.chain_in + weights.chain_offset
            ) & MASK_64
            slot = word * weights.slot_word + chain * weights.slot_chain
            total = (total + slot * (splitmix64(weights.position_seed, position) | 1)) & MASK_64
            position += 1
        token = mix64(total) % vocab_size
        output.append(token)
        tokens.append(token)
        if token in stops:
            break
    return output
