"""KV pool, lock-ref and row-pool exhausters for scripted."""

from __future__ import annotations

from scripted_exhausters._version import __version__
from scripted_exhausters.kv_pool import ScriptedKvPoolExhauster
from scripted_exhausters.lock_ref import ScriptedLockRefExhauster
from scripted_exhausters.row_pool import ScriptedRowPoolExhauster

__all__ = [
    "ScriptedKvPoolExhauster",
    "ScriptedLockRefExhauster",
    "ScriptedRowPoolExhauster",
    "__version__",
]
