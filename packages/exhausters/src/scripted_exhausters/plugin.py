"""The registration of this package's exhausters."""

from __future__ import annotations

from scripted_core.capabilities import Capability
from scripted_registry import ExhausterSpec, hookimpl

from scripted_exhausters.kv_pool import ScriptedKvPoolExhauster
from scripted_exhausters.lock_ref import ScriptedLockRefExhauster
from scripted_exhausters.row_pool import ScriptedRowPoolExhauster

SCRIPTED_API = 1


@hookimpl
def scripted_register_exhausters() -> list[ExhausterSpec]:
    """``kv``, ``lock_refs`` and ``rows``."""
    return [
        ExhausterSpec(
            name="kv",
            summary="Hold KV pages until a request can get only leave_pages more",
            factory=ScriptedKvPoolExhauster,
        ),
        ExhausterSpec(
            name="lock_refs",
            summary="Lock prefix-tree nodes until no more than leave_refs can be evicted",
            factory=ScriptedLockRefExhauster,
            capability=Capability.LOCK_REFS.value,
        ),
        ExhausterSpec(
            name="rows",
            summary="Hold request rows until leave_rows are free",
            factory=ScriptedRowPoolExhauster,
            capability=Capability.ROW_POOL.value,
        ),
    ]
