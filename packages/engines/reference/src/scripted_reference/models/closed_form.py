"""What the `hash` model has to output, computed without a pool, a scheduler or NumPy.

Python integers and one pass over the tokens: no code is shared with the model but its constants.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Sequence

from scripted_reference.models.hash_weights import (
    EOS_TOKEN_ID,
    MASK_64,
    VOCAB_SIZE,
    HashWeights,
    WindowWeights,
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
    sliding_window: int | None = None,
) -> list[int]:
    """Return the first `n` tokens that the `hash` model generates after `prompt_ids`.

    With `ignore_eos=False` it ends, as a request does, with the first end-of-sequence token or member
    of `stop_token_ids`, which is included. `seed` is the engine's `random_seed`; with a `temperature`
    from `GREEDY_BELOW` on the tokens are those that the request's `sampling_seed` gives, `seed` by
    default. `sliding_window` is that of the model, if it has one.
    """
    weights = HashWeights.from_seed(seed)
    stops = frozenset() if ignore_eos else frozenset((EOS_TOKEN_ID, *stop_token_ids))
    chain = 0
    total = weights.output_offset
    if temperature is not None and temperature >= GREEDY_BELOW:
        total = sampling_offset(seed if sampling_seed is None else sampling_seed)
    tokens = list(prompt_ids)
    output: list[int] = []
    window = None if sliding_window is None else _Window(sliding_window, seed)
    position = 0
    while len(output) < n:
        while position < len(tokens):
            word = (tokens[position] + (position << 32)) & MASK_64
            chain = (
                chain * weights.growth + word * weights.chain_in + weights.chain_offset
            ) & MASK_64
            slot = word * weights.slot_word + chain * weights.slot_chain
            total = (total + slot * (splitmix64(weights.position_seed, position) | 1)) & MASK_64
            if window is not None:
                window.add(word, chain)
            position += 1
        token = mix64(total + (0 if window is None else window.output)) % vocab_size
        output.append(token)
        tokens.append(token)
        if token in stops:
            break
    return output


class _Window:
    """The sliding-window layer, one token after the other."""

    def __init__(self, length: int, seed: int) -> None:
        self._weights = weights = WindowWeights.from_seed(seed)
        self._omega = [weights.omega(ago) for ago in range(length)]
        self._records: deque[int] = deque(maxlen=length)
        self._state = 0

    def add(self, word: int, chain: int) -> None:
        """Compute one more token."""
        weights = self._weights
        self._records.appendleft(word * weights.slot_word + chain * weights.slot_chain)
        seen = sum(omega * one for omega, one in zip(self._omega, self._records, strict=False))
        self._state = (self._state * weights.growth + seen + weights.offset) & MASK_64

    @property
    def output(self) -> int:
        """What the last token adds to the sum."""
        return self._state * self._weights.output
