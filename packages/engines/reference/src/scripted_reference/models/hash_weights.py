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


@dataclass(frozen=True, slots=True)
class WindowWeights:
    """Those of the sliding-window layer; all but `offset` and `omega_seed` are odd.

    Attributes:
        slot_word: weighs a token and its position in a record.
        slot_chain: weighs its chained hash in it.
        growth: what the state is multiplied by from one token to the next.
        offset: is added to the state with every token.
        omega_seed: seed of the stream of the weights of a window's records.
        output: weighs the last state in the sum that the next token is made of.
    """

    slot_word: int
    slot_chain: int
    growth: int
    offset: int
    omega_seed: int
    output: int

    @classmethod
    def from_seed(cls, seed: int) -> WindowWeights:
        """Draw all of them, from the numbers of the stream that nothing else uses."""
        draws = [splitmix64(mix64(seed), _SAMPLING_DRAW + 1 + index) for index in range(6)]
        slot_word, slot_chain, growth, offset, omega_seed, output = draws
        return cls(
            slot_word=slot_word | 1,
            slot_chain=slot_chain | 1,
            growth=growth | 1,
            offset=offset,
            omega_seed=omega_seed,
            output=output | 1,
        )

    def omega(self, tokens_ago: int) -> int:
        """Return the weight of the record of so many tokens before the newest one."""
        return splitmix64(self.omega_seed, tokens_ago) | 1
