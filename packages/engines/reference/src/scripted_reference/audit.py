"""The audit of the whole engine: who owns each page, row and lock of every replica."""

from __future__ import annotations

from itertools import accumulate

from scripted_core.views import Audit, OwnerKind, PageClaim, PoolAudit, RowAudit

from scripted_reference.engine import Engine
from scripted_reference.ownership import PoolClaims, pool_claims, row_claims
from scripted_reference.pools import window_pool_name
from scripted_reference.scheduler import Scheduler
from scripted_reference.window_claims import window_claims


def engine_audit(engine: Engine, *, held_locks: int) -> Audit:
    """Return the claims at an iteration boundary; ``held_locks`` are those of exhausters."""
    schedulers = engine.schedulers
    return Audit(
        pools=tuple(
            [
                pool
                for name, scheduler in zip(engine.pool_names, schedulers, strict=True)
                for pool in pool_audits(scheduler, name=name)
            ]
        ),
        rows=row_audit(schedulers),
        lock_refs=[node.lock_ref for one in schedulers for node in one.tree_cache.nodes()],
        held_locks=held_locks,
        is_idle=engine.is_idle,
    )


def pool_audits(scheduler: Scheduler, *, name: str) -> list[PoolAudit]:
    """Return who owns each page of one replica's KV pools; `name` is that of the full one."""
    audits = [pool_audit(scheduler, pool_claims(scheduler), name=name)]
    window = scheduler.memory.window
    if window is not None:
        claims = window_claims(scheduler, window)
        audits.append(pool_audit(scheduler, claims, name=window_pool_name(name)))
    return audits


def pool_audit(scheduler: Scheduler, claims: PoolClaims, *, name: str) -> PoolAudit:
    """Return the claims on one pool in the words of scripted."""
    owners = [
        PageClaim(OwnerKind.FREE, "free", claims.free_pages),
        PageClaim(OwnerKind.TREE, "tree", claims.tree_pages),
    ]
    if len(claims.held_pages):
        owners.append(PageClaim(OwnerKind.HELD, "held", claims.held_pages))
    references = []
    moving = {req.rid for req in scheduler.in_transfer()}
    for request in claims.requests:
        kind = OwnerKind.TRANSFER if request.rid in moving else OwnerKind.REQUEST
        owners.append(PageClaim(kind, request.rid, request.own_pages))
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
    """Return who owns each row; those of a replica are numbered behind those of the ones before it.

    A request that has rows in several, as in a prefill/decode pair, is told apart by the replica.
    """
    parts = [row_claims(scheduler) for scheduler in schedulers]
    if len(parts) == 1:
        only = parts[0]
        return RowAudit(0, only.num_rows, only.free_rows, only.held_rows, only.request_rows)
    firsts = list(accumulate((part.num_rows for part in parts), initial=0))
    by_request: dict[str, int] = {}
    for rank, part in enumerate(parts):
        for rid, row in part.request_rows.items():
            by_request[f"{rid}@{rank}" if rid in by_request else rid] = firsts[rank] + row
    return RowAudit(
        first_row=0,
        num_rows=firsts[-1],
        free=_numbered([part.free_rows for part in parts], firsts),
        held=_numbered([part.held_rows for part in parts], firsts),
        by_request=by_request,
    )


def _numbered(rows_by_rank: list[tuple[int, ...]], firsts: list[int]) -> tuple[int, ...]:
    return tuple(
        [first + row for first, rows in zip(firsts, rows_by_rank, strict=False) for row in rows]
    )
