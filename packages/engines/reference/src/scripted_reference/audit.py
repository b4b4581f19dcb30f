"""The audit of the whole engine: who owns each page, row and lock of every replica."""

from __future__ import annotations

from itertools import chain

from scripted_core.views import Audit, OwnerKind, PageClaim, PoolAudit, RowAudit

from scripted_reference.engine import Engine
from scripted_reference.ownership import pool_claims, row_claims
from scripted_reference.pools import pool_name
from scripted_reference.scheduler import Scheduler


def engine_audit(engine: Engine, *, held_locks: int) -> Audit:
    """Return the claims at an iteration boundary; ``held_locks`` are those of exhausters."""
    schedulers = engine.schedulers
    return Audit(
        pools=tuple(
            [
                pool_audit(scheduler, name=pool_name(rank))
                for rank, scheduler in enumerate(schedulers)
            ]
        ),
        rows=row_audit(schedulers),
        lock_refs=[node.lock_ref for one in schedulers for node in one.tree_cache.nodes()],
        held_locks=held_locks,
        is_idle=engine.is_idle,
    )


def pool_audit(scheduler: Scheduler, *, name: str) -> PoolAudit:
    """Return who owns each page of one replica's KV pool."""
    claims = pool_claims(scheduler)
    owners = [
        PageClaim(OwnerKind.FREE, "free", claims.free_pages),
        PageClaim(OwnerKind.TREE, "tree", claims.tree_pages),
    ]
    if len(claims.held_pages):
        owners.append(PageClaim(OwnerKind.HELD, "held", claims.held_pages))
    references = []
    for request in claims.requests:
        owners.append(PageClaim(OwnerKind.REQUEST, request.rid, request.own_pages))
        if len(request.shared_pages):
            references.append(PageClaim(OwnerKind.REQUEST, request.rid, request.shared_pages))
    return PoolAudit(
        name,
        scheduler.page_size,
        claims.first_page,
        claims.num_pages,
        tuple(owners),
        tuple(references),
    )


def row_audit(schedulers: tuple[Scheduler, ...]) -> RowAudit:
    """Return who owns each row; that of replica ``r`` is number ``r * rows_of_a_replica + row``."""
    parts = [row_claims(scheduler) for scheduler in schedulers]
    if len(parts) == 1:
        only = parts[0]
        return RowAudit(0, only.num_rows, only.free_rows, only.held_rows, only.request_rows)
    size = parts[0].num_rows
    return RowAudit(
        first_row=0,
        num_rows=size * len(parts),
        free=_numbered([part.free_rows for part in parts], size),
        held=_numbered([part.held_rows for part in parts], size),
        by_request={
            rid: rank * size + row
            for rank, part in enumerate(parts)
            for rid, row in part.request_rows.items()
        },
    )


def _numbered(rows_by_rank: list[tuple[int, ...]], size: int) -> tuple[int, ...]:
    return tuple(
        chain.from_iterable(
            (rank * size + row for row in rows) for rank, rows in enumerate(rows_by_rank)
        )
    )
