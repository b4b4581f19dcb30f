"""How well guesses fit."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class AcceptLengths:
    """How many tokens verifications gave, the model's own choice included."""

    verified: int = 0
    tokens: int = 0

    @property
    def mean(self) -> float | None:
        """Tokens of a verification; `None` before the first."""
        return self.tokens / self.verified if self.verified else None
