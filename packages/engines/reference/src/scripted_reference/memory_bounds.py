"""Refuses sizes that take more memory than the machine has, before anything is allocated."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from typing import Final

from scripted_registry.errors import ConfigError

_GIB: Final = 1 << 30
_BYTES_WHERE_UNKNOWN: Final = 64 * _GIB
"""Stands for the memory of a system that has no `sysconf` to ask."""

# What the engine allocates for each, rounded up a little.
SLOT_BYTES: Final = 32
"""Of a KV slot: its record in `TokenToKVPool` and its page on the free list."""
ROW_BYTES: Final = 64
"""Of a request row: its index on the free list, a Python integer."""
TABLE_ENTRY_BYTES: Final = 8
"""Of one position of one row in `ReqToTokenPool`."""
POSITION_BYTES: Final = 64
"""Of one position of the context: weights and powers of the `hash` model, and their making."""


def machine_bytes() -> int:
    """Return how much physical memory the machine has."""
    if sys.platform == "win32":
        return _BYTES_WHERE_UNKNOWN
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def check_fits(bytes_by_cause: Mapping[str, int], *, hint: str) -> None:
    """Raise `ConfigError` when all sizes together are more than the machine has.

    `bytes_by_cause` has the bytes that each cause takes, by how a message names it. The message names
    the one that takes most, and what that is.
    """
    limit = machine_bytes()
    total = sum(bytes_by_cause.values())
    if total <= limit:
        return
    cause, largest = max(bytes_by_cause.items(), key=lambda item: item[1])
    raise ConfigError(
        f"{cause} takes {_shown(largest)} of memory, {_shown(total)} with everything else, "
        f"but this machine has {_shown(limit)}",
        hint=hint,
    )


def _shown(size_bytes: int) -> str:
    return f"{-(-size_bytes // _GIB):,} GiB"
