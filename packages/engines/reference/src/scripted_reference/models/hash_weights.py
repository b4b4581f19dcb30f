"""The constants of the `hash` model, all drawn from one seed. Arithmetic is modulo 2**64.

`splitmix64` is the generator of Steele, Lea and Flood, "Fast splittable pseudorandom number
generators" (OOPSLA 2014).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

MASK_64: Final = (1 << 64) - 1
GOLDEN_GAMMA: Final = 0x9E3779B97F4A7C15
MIX_1: Final = 0xBF58476D1CE4E5B9
MIX_2: Final = 0x94D049BB133111EB

VOCAB_SIZE: Final = 32_000
EOS_TOKEN_ID: Final = 2


_SAMPLING_DRAW: Final = 7
"""The draw of a sampling seed's stream that is used; the weights take those before it."""


def mix64(value: int) -> int:
    """Return the output function of splitmix64: a bijection in which every input bit matters."""
    value &= MASK_64
    value = ((value ^ (value >> 30)) * MIX_1) & MASK_64
    value = ((value ^ (value >> 27)) * MIX_2) & MASK_64
    return value ^ (value >> 31)


def splitmix64(seed: int, index: int) -> int:
    """Return output number `index` of the splitmix64 stream of `seed`."""
    return mix64(seed + (index + 1) * GOLDEN_GAMMA)


def sampling_offset(seed: int) -> int:
    """Return what a request that samples with `seed` has in place of `HashWeights.output_offset`."""
    return splitmix64(mix64(seed), _SAMPLING_DRAW)


@dataclass(frozen=True, slots=True)
class HashWeights:
    """The odd multipliers, and where the stream of position multipliers starts.

    Attributes:
        growth: what the chained hash is multiplied by from one token to the next.
        chain_in: weighs a token (with its position) on its way into the chain.
        chain_offset: is added to the chain with every token, so that zeros count.
        slot_word: weighs a slot's token and position in the sum over the context.
        slot_chain: weighs a slot's chained hash in it.
        position_seed: seed of the stream of the position multipliers.
        output_offset: is added to the sum before it is turned into a token.
    """

    growth: int
    chain_in: int
    chain_offset: int
    slot_word: int
    slot_chain: int
    position_seed: int
    output_offset: int

    @classmethod
    def from_seed(cls, seed: int) -> HashWeights:
        """Draw all of them."""
        draws = [splitmix64(mix64(seed), index) for index in range(7)]
        growth, chain_in, chain_offset, slot_word, slot_chain, position_seed, offset = draws
        return cls(
            growth=growth | 1,
            chain_in=chain_in | 1,
            chain_offset=chain_offset,
            slot_word=slot_word | 1,
            slot_chain=slot_chain | 1,
            position_seed=position_seed,
            output_offset=offset,
        )
