"""Who gives way when the pool is full, and how carefully to admit afterwards."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from scripted_reference.request import Req

_INIT_RATIO: Final = 0.7
_MIN_FRACTION: Final = 0.14
_DECAY_STEPS: Final = 600
_STEPS_AHEAD_AFTER_RETRACT: Final = 20

OUT_OF_MEMORY: Final = (
    "Out of KV memory: the request cannot decode its next token, although every other request was "
    "retracted and the prefix tree evicted"
)


def pick_victim(reqs: Sequence[Req]) -> Req:
    """Return the request to retract: fewest output tokens, then longest prompt, then last arrived.

    It loses the least work and, with its prompt in the prefix tree, gives back the most. The order is
    SGLang's; the last rule is ours, so that it is total.
    """
    return min(
        reqs, key=lambda req: (len(req.output_ids), -len(req.origin_input_ids), -req.arrival)
    )


class NewTokenRatio:
    """The part of the tokens still allowed to running requests that admission reserves for them.

    It starts cautiously, decays to a minimum while decoding goes well, and jumps up when something
    had to be retracted: the scheme, and its constants, are SGLang's.
    """

    def __init__(self, *, conservativeness: float = 1.0) -> None:
        self._initial = min(_INIT_RATIO * conservativeness, 1.0)
        self._minimum = self._initial * _MIN_FRACTION
        self._decay = (self._initial - self._minimum) / _DECAY_STEPS
        self.current = self._initial

    def decay(self) -> None:
        """A decode step went well."""
        if self.current > self._minimum:
            self.current = max(self.current - self._decay, self._minimum)

    def after_retraction(self, kept: Sequence[Req]) -> None:
        """Something was retracted and `kept` runs on: allow them what they used, and some steps more."""
        allowed = sum(req.max_new_tokens for req in kept)
        if allowed:
            used = sum(len(req.output_ids) for req in kept)
            ahead = _STEPS_AHEAD_AFTER_RETRACT * len(kept)
            self.current = min((used + ahead) / allowed, 1.0)

    def reset(self) -> None:
        """The engine is idle: start over."""
        self.current = self._initial
