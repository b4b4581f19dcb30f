"""Everything that this package registers."""

from __future__ import annotations

from scripted_registry import (
    CiRunner,
    CiStage,
    ExhausterSpec,
    KitSpec,
    Violation,
    hookimpl,
)
from scripted_registry.types import AuditLike

SCRIPTED_API = 1


@hookimpl
def scripted_register_ci_runners() -> list[CiRunner]:
    """A kind of machine that only this package's owner has."""
    labels = ("self-hosted", "lighthouse")
    return [CiRunner(name="lighthouse-box", summary="a machine in the lighthouse", labels=labels)]


@hookimpl
def scripted_register_ci_stages() -> list[CiStage]:
    """The scripts of this package, on that machine."""
    return [
        CiStage(
            name="lighthouse",
            runner="lighthouse-box",
            summary="bursts of requests in the fog",
            engine="reference",
            packages=("lighthouse-scripted[test]",),
            command="python -m pytest {tests} --scripted-backend reference",
        )
    ]


@hookimpl
def scripted_register_kits() -> list[KitSpec]:
    """A kit for any running server."""
    from lighthouse_scripted.blink import blink

    summary = "Ask a server for its health a few times"
    return [KitSpec(name="lighthouse-blink", summary=summary, run=blink)]


@hookimpl
def scripted_register_exhausters() -> list[ExhausterSpec]:
    """Fog: pages go one for each call, as they would under a neighbour that grows."""
    from lighthouse_scripted.fog import Fog

    summary = "Hold KV pages, but never the last leave_pages free ones"
    return [ExhausterSpec(name="fog", summary=summary, factory=Fog)]


@hookimpl
def scripted_check_invariants(audit: AuditLike) -> list[Violation]:
    """More owners than rows would be a scheduler that overbooks."""
    rows = audit.rows
    if rows is None or len(rows.by_request) <= rows.num_rows:
        return []
    return [
        Violation(
            code="lighthouse-over-capacity",
            message=f"{len(rows.by_request)} requests have {rows.num_rows} rows",
            subject="row pool",
        )
    ]
