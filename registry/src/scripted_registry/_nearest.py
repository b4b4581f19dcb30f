"""Nearest-name suggestions for error messages."""

from __future__ import annotations

from collections.abc import Iterable


def nearest(name: str, candidates: Iterable[str]) -> str | None:
    """Return the candidate most like `name`, or `None` when none is close."""
    import difflib  # costs as much as the rest of this package; needed only for an error

    by_folded = {candidate.casefold(): candidate for candidate in sorted(candidates, reverse=True)}
    matches = difflib.get_close_matches(name.casefold(), by_folded, n=1, cutoff=0.6)
    return by_folded[matches[0]] if matches else None


def listed(names: Iterable[str]) -> str:
    """Return the names sorted and joined for a message, or "none"."""
    return ", ".join(sorted(names)) or "none"
