"""Text for terminals and messages: escaped, cut to size, and the name that was probably meant."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")
_LONGEST = 12_000
_HEAD, _TAIL = 7_000, 4_000


def printable(text: str) -> str:
    """``text`` with what would steer a terminal, or cannot be encoded, written as an escape."""
    return _CONTROL.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def shortened(text: str, *, whole: str) -> str:
    """``text``, its middle left out when it is very long; ``whole`` says where all of it is."""
    if len(text) <= _LONGEST:
        return text
    left_out = len(text) - _HEAD - _TAIL
    note = f"[... {left_out:,} of {len(text):,} characters left out; {whole}]"
    return f"{text[:_HEAD]}\n{note}\n{text[-_TAIL:]}"


def closest(name: str, names: Iterable[str]) -> str | None:
    """The one of ``names`` that ``name`` was probably meant to be, or ``None``."""
    found = difflib.get_close_matches(name, list(names), n=1, cutoff=0.6)
    return found[0] if found else None


def counted(n: int, noun: str) -> str:
    """``1 iteration``, ``2 iterations``."""
    return f"{n:,} {noun}{'' if n == 1 else 's'}"
