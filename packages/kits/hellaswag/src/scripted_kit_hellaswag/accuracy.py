"""A share with its confidence interval."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

_Z95: Final = 1.959963984540054


@dataclass(frozen=True, kw_only=True)
class Accuracy:
    """`right` of `count`, with the bounds of its 95 % interval (Wilson's score interval)."""

    right: int
    count: int

    @property
    def share(self) -> float:
        """Between 0 and 1; NaN of nothing."""
        return self.right / self.count if self.count else math.nan

    @property
    def interval(self) -> tuple[float, float]:
        """Wilson, E. B. (1927): Probable inference, the law of succession, and statistical inference."""
        if not self.count:
            return math.nan, math.nan
        n, z2 = self.count, _Z95 * _Z95
        middle = (self.share + z2 / (2 * n)) / (1 + z2 / n)
        spread = self.share * (1 - self.share) / n + z2 / (4 * n * n)
        half = _Z95 / (1 + z2 / n) * math.sqrt(spread)
        return max(middle - half, 0.0), min(middle + half, 1.0)

    def __str__(self) -> str:
        low, high = self.interval
        return (
            f"{100 * self.share:.1f} % ({self.right} of {self.count}; "
            f"95 % interval {100 * low:.1f} to {100 * high:.1f} %)"
        )
