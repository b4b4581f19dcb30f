"""The event log of one script: everything that happened, in order, and its digest."""

from __future__ import annotations

import hashlib
import re
from typing import Any

_AUTOMATIC_RID = re.compile(r"\bscripted-(\d+)-[0-9a-f]{8}\b")

_NO_OPERATIONS = frozenset({"batch", "seed"})


class EventLog:
    """Append-only; entries are plain tuples whose ``repr`` is the same in every run."""

    def __init__(self) -> None:
        self._events: list[tuple[Any, ...]] = []

    def clear(self) -> None:
        """Forget everything."""
        self._events.clear()

    def add(self, *event: Any) -> None:
        """Append one event."""
        self._events.append(event)

    def digest(self) -> str:
        """BLAKE2b over the events' representations, as hex.

        Automatic rids count by their number: their hex may differ from script to script.
        """
        digest = hashlib.blake2b(digest_size=16)
        for event in self._events:
            digest.update(_AUTOMATIC_RID.sub(r"scripted-\1", repr(event)).encode())
            digest.update(b"\n")
        return digest.hexdigest()

    def lines(self) -> list[str]:
        """The events as text, one a line."""
        return [" ".join(str(part) for part in event) for event in self._events]

    def last_operations(self, n: int = 5) -> tuple[str, ...]:
        """The latest control operations and finishes, for a violation's message."""
        found = [event for event in self._events if event[0] not in _NO_OPERATIONS]
        return tuple(" ".join(str(part) for part in event) for event in found[-n:])
