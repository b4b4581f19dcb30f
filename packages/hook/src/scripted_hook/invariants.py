"""The invariants of an engine at an iteration boundary, computed from its audit.

Every page has exactly one owner (free, request, tree, in flight, transfer, held, reserved), and
every block-table entry that shares a page names one that the prefix tree owns; rows likewise; lock
refs are never negative, and zero when nothing runs and nothing is held. The good case costs one sort
of a small pool and one ``bincount`` of a large one; owners are only looked up for a violation.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache

import numpy as np
import numpy.typing as npt
from scripted_core.views import Audit, OwnerKind, PageClaim, PoolAudit, RowAudit
from scripted_registry import Violation

_NAMED = 8
"""How many pages or rows a violation names."""

_SMALL_POOL = 2_048
"""Pages up to which a sort costs less than the passes over a count of each page."""

_IntArray = npt.NDArray[np.integer]
_NO_PAGES: _IntArray = np.zeros(0, dtype=np.int64)


def check_audit(audit: Audit, *, step: int) -> list[Violation]:
    """All violations in ``audit``; empty when the engine is sound."""
    found: list[Violation] = []
    sound: _Claimed | None = None
    for pool in audit.pools:
        claimed = _Claimed(pool)
        if sound is not None and claimed.are_as_in(sound):
            continue
        violations = list(_check_pool(claimed, step))
        found.extend(violations)
        if not violations and pool.num_pages > _SMALL_POOL:
            sound = claimed
    if audit.rows is not None and not _is_each_row_once(audit.rows):
        found.extend(_check_rows(audit.rows, step))
    found.extend(_check_locks(audit, step))
    return found


class _Claimed:
    """The pages of all claims on a pool, in the order of the claims."""

    def __init__(self, pool: PoolAudit) -> None:
        self.pool = pool
        claims = [claim.pages for claim in pool.claims]
        self.pages = np.concatenate(claims, dtype=np.int64) if claims else _NO_PAGES

    def are_as_in(self, other: _Claimed) -> bool:
        """Whether every claim and reference is as in another pool, whose stage does the same.

        To compare large pools costs a third of counting every page once more.
        """
        mine, theirs = self.pool, other.pool
        return (
            (mine.first_page, mine.num_pages) == (theirs.first_page, theirs.num_pages)
            and _shape(mine) == _shape(theirs)
            and np.array_equal(self.pages, other.pages)
            and np.array_equal(_referred_to(mine), _referred_to(theirs))
        )


def _shape(pool: PoolAudit) -> list[tuple[OwnerKind, int]]:
    return [(claim.kind, len(claim.pages)) for claim in pool.claims]


def _referred_to(pool: PoolAudit) -> _IntArray:
    return np.concatenate([one.pages for one in pool.references]) if pool.references else _NO_PAGES


def _check_pool(claimed: _Claimed, step: int) -> Iterator[Violation]:
    pool, pages = claimed.pool, claimed.pages
    end = pool.first_page + pool.num_pages
    if pool.num_pages <= _SMALL_POOL and _is_each_page_once(pages, pool):
        if pool.references:
            yield from _stale_references(pool, end, step, is_within=True)
        return
    # Ids outside are taken out: bincount refuses negative ones and makes room up to large ones.
    is_within = _is_within(pages, end)
    if not is_within:
        strange = (pages < 0) | (pages >= end)
        yield _outside_pool(pool, np.unique(pages[strange]), step)
        pages = pages[~strange]
    counts = np.bincount(pages, minlength=end)
    # As many claims as pages, and none of them without one: then each has one, and none lies before.
    if len(pages) != pool.num_pages or not counts[pool.first_page :].all():
        yield from _ownership_violations(pool, counts, step)
    if pool.references:
        yield from _stale_references(pool, end, step, is_within=is_within)


def _is_each_page_once(pages: _IntArray, pool: PoolAudit) -> bool:
    if len(pages) != pool.num_pages:
        return False
    pages.sort()  # made for this check, and in a small pool nobody asks for its order
    return pages.tobytes() == _all_pages(pool.first_page, pool.num_pages)


@lru_cache(maxsize=64)
def _all_pages(first: int, count: int) -> bytes:
    return np.arange(first, first + count, dtype=np.int64).tobytes()


def _stale_references(
    pool: PoolAudit, end: int, step: int, *, is_within: bool
) -> Iterator[Violation]:
    """Shared pages that the prefix tree does not own: looked for in all references at once first.

    ``is_within`` says that no claim names a page outside the pool.
    """
    if pool.num_pages <= _SMALL_POOL and _are_all_of_the_tree(pool):
        return
    owned = np.zeros(end, dtype=bool)
    for claim in pool.claims:
        if claim.kind is OwnerKind.TREE:
            owned[claim.pages if is_within else _within(claim.pages, end)] = True
    if not len(_outside(_referred_to(pool), owned)):
        return
    for reference in pool.references:
        stale = _outside(reference.pages, owned)
        if len(stale):
            yield Violation(
                step=step,
                code="stale-reference",
                message=(
                    f"pool {pool.pool!r}: {reference.owner} shares pages that the prefix tree "
                    f"does not own: {_named(stale)}"
                ),
                subject=f"page {int(stale[0])}",
                owners=(reference.owner, *_owners(pool, int(stale[0]))),
            )


def _are_all_of_the_tree(pool: PoolAudit) -> bool:
    tree: set[int] = set()
    for claim in pool.claims:
        if claim.kind is OwnerKind.TREE:
            tree.update(claim.pages.tolist())
    return all(tree.issuperset(reference.pages.tolist()) for reference in pool.references)


def _is_within(pages: _IntArray, end: int) -> bool:
    # One pass finds ids below and above: a negative one is huge without its sign.
    return not len(pages) or bool(pages.astype(np.int64, copy=False).view(np.uint64).max() < end)


def _within(pages: _IntArray, end: int) -> _IntArray:
    return pages if _is_within(pages, end) else pages[(pages >= 0) & (pages < end)]


def _outside(pages: _IntArray, owned: npt.NDArray[np.bool_]) -> _IntArray:
    if _is_within(pages, len(owned)):
        return pages[~owned[pages]]
    good = (pages >= 0) & (pages < len(owned))
    good[good] = owned[pages[good]]
    return pages[~good]


def _outside_pool(pool: PoolAudit, wrong: _IntArray, step: int) -> Violation:
    owners = _owners(pool, int(wrong[0]))
    return Violation(
        step=step,
        code="page-outside-pool",
        message=(
            f"pool {pool.pool!r}: {len(wrong)} pages are not in the pool: {_named(wrong)}; "
            f"page {int(wrong[0])} is owned by {', '.join(owners)}"
        ),
        subject=f"page {int(wrong[0])}",
        owners=owners,
    )


def _ownership_violations(
    pool: PoolAudit, counts: npt.NDArray[np.integer], step: int
) -> Iterator[Violation]:
    end = pool.first_page + pool.num_pages
    pages = np.arange(len(counts))
    in_pool = (pages >= pool.first_page) & (pages < end)
    for code, wrong, what in (
        ("page-owned-twice", np.flatnonzero(in_pool & (counts > 1)), "have more than one owner"),
        ("page-orphaned", np.flatnonzero(in_pool & (counts == 0)), "have no owner"),
        ("page-outside-pool", np.flatnonzero(~in_pool & (counts > 0)), "are not in the pool"),
    ):
        if len(wrong):
            owners = _owners(pool, int(wrong[0]))
            yield Violation(
                step=step,
                code=code,
                message=(
                    f"pool {pool.pool!r}: {len(wrong)} pages {what}: {_named(wrong)}"
                    + (f"; page {int(wrong[0])} is owned by {', '.join(owners)}" if owners else "")
                ),
                subject=f"page {int(wrong[0])}",
                owners=owners,
            )


def _owners(pool: PoolAudit, page: int) -> tuple[str, ...]:
    def name(claim: PageClaim, times: int) -> str:
        base = (
            claim.kind.value if claim.owner == claim.kind.value else f"{claim.kind} {claim.owner}"
        )
        return base if times == 1 else f"{base} ({times} times)"

    named = ((claim, int(np.count_nonzero(claim.pages == page))) for claim in pool.claims)
    return tuple(name(claim, times) for claim, times in named if times)


def _named(pages: _IntArray) -> str:
    shown = ", ".join(str(int(page)) for page in pages[:_NAMED])
    return shown if len(pages) <= _NAMED else f"{shown}, … ({len(pages)} in all)"


def _is_each_row_once(rows: RowAudit) -> bool:
    owned = sorted([*rows.free, *rows.held, *rows.by_request.values()])
    return owned == list(range(rows.first_row, rows.first_row + rows.num_rows))


def _check_rows(rows: RowAudit, step: int) -> Iterator[Violation]:
    seen: dict[int, str] = {}
    groups = [("free", row) for row in rows.free]
    groups += [("held", row) for row in rows.held]
    groups += [(f"request {rid}", row) for rid, row in rows.by_request.items()]
    twice: dict[int, list[str]] = {}
    for owner, row in groups:
        if row in seen:
            twice.setdefault(row, [seen[row]]).append(owner)
        seen[row] = owner
    for row, owners in sorted(twice.items())[:_NAMED]:
        yield Violation(
            step=step,
            code="row-owned-twice",
            message=f"request row {row} is owned by {', '.join(owners)}",
            subject=f"row {row}",
            owners=tuple(owners),
        )
    wanted = range(rows.first_row, rows.first_row + rows.num_rows)
    if len(seen) != rows.num_rows or any(row not in wanted for row in seen):
        missing = [row for row in wanted if row not in seen]
        foreign = [row for row in seen if row not in wanted]
        for code, wrong, what in (
            ("row-orphaned", missing, "have no owner"),
            ("row-outside-pool", foreign, "are not in the pool"),
        ):
            if wrong:
                yield Violation(
                    step=step,
                    code=code,
                    message=f"request rows {wrong[:_NAMED]} {what} ({len(wrong)} in all)",
                    subject=f"row {wrong[0]}",
                    owners=tuple(seen[row] for row in wrong[:1] if row in seen),
                )


def _check_locks(audit: Audit, step: int) -> Iterator[Violation]:
    refs = audit.lock_refs
    if refs and min(refs) < 0:
        negative = [ref for ref in refs if ref < 0]
        yield Violation(
            step=step,
            code="lock-ref-negative",
            message=f"{len(negative)} prefix-tree nodes have a negative lock ref: {negative[:_NAMED]}",
            subject="prefix tree",
        )
    if audit.is_idle and not audit.held_locks and any(refs):
        locked = [ref for ref in audit.lock_refs if ref > 0]
        if locked:
            yield Violation(
                step=step,
                code="lock-ref-lost",
                message=(
                    f"the engine is idle, yet {len(locked)} prefix-tree nodes are locked: "
                    f"{locked[:_NAMED]}"
                ),
                subject="prefix tree",
            )
