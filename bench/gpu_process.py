"""What every measuring process of the GPU stage does: say that it is ready, and wait for the word."""

from __future__ import annotations

import statistics
import sys
from typing import Final

READY: Final = "ready"


def wait_for_the_word() -> None:
    """Say so on standard output, and wait for a line at standard input."""
    print(READY, flush=True)
    if not sys.stdin.readline():
        raise SystemExit("nobody is there to say when to measure")


def quartiles(values: list[float]) -> dict[str, float]:
    """The median and the quartiles of samples."""
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return {"median": middle, "low": low, "high": high, "samples": len(values)}
