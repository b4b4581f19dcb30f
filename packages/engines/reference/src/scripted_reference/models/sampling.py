"""The choice of the next token: greedy, or with reproducible randomness.

Unless the temperature is greedy (see `models/temperature.py`), the token is the argmax of
`logits / temperature + noise` with Gumbel noise (the Gumbel-max trick), which draws from the softmax.
The noise is a function of seed, position and token id, computed with the counter-based splitmix64: it
does not depend on the batch, on what was drawn before, or on a retraction in between.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

from scripted_reference.models.hash_weights import GOLDEN_GAMMA, MIX_1, MIX_2, mix64, splitmix64
from scripted_reference.models.temperature import is_greedy

FloatArray = npt.NDArray[np.float32]

_GAMMA: Final = np.array([GOLDEN_GAMMA], dtype=np.uint64)


def sample(logits: FloatArray, *, temperature: float, seed: int, position: int) -> int:
    """Return the token at `position` for `float32[vocab]`; the likeliest if that is greedy."""
    if is_greedy(temperature):
        return int(logits.argmax())
    scores = logits.astype(np.float64) / temperature
    scores += gumbel_noise(seed=seed, position=position, count=len(logits))
    return int(scores.argmax())


def gumbel_noise(*, seed: int, position: int, count: int) -> npt.NDArray[np.float64]:
    """Return `float64[count]` of standard Gumbel noise, one for each token id."""
    start = np.array([splitmix64(mix64(seed), position)], dtype=np.uint64)
    # NumPy wraps silently in arrays but warns about scalars, so even constants are arrays.
    words = start + np.arange(1, count + 1, dtype=np.uint64) * _GAMMA
    words = (words ^ (words >> np.uint64(30))) * np.uint64(MIX_1)
    words = (words ^ (words >> np.uint64(27))) * np.uint64(MIX_2)
    words ^= words >> np.uint64(31)
    # 53 bits and a half: never 0 and never 1, so that both logarithms are finite.
    uniform = ((words >> np.uint64(11)).astype(np.float64) + 0.5) * 2.0**-53
    noise: npt.NDArray[np.float64] = -np.log(-np.log(uniform))
    return noise
