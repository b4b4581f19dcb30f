"""The audit of the fake engine."""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Sequence
from typing import Any

from scripted_core.errors import ConfigError
from scripted_core.testing.pools import FakeKvPool, FakeRowPool
from scripted_core.testing.prefix_tree import FakePrefixTree
from scripted_core.testing.request import FakeRequest
from scripted_core.views import Audit, OwnerKind, PageClaim, PoolAudit, RowAudit


def page_array(pages: Iterable[int]) -> Any:
    """``pages`` as the 1-D array of int64 that a ``PageClaim`` wants; needs numpy."""
    # Imported here: this package does not depend on numpy, the hook that reads the audit does.
    try:
        numpy = importlib.import_module("numpy")
    except ImportError as error:
        raise ConfigError(
            "the audit of a fake engine needs numpy, which is not installed",
            hint="pip install numpy, or run the script with check_invariants=False",
        ) from error
    return numpy.fromiter(pages, dtype="int64")


def audit_of(
    *,
    live: Sequence[FakeRequest],
    pool: FakeKvPool,
    rows: FakeRowPool,
    tree: FakePrefixTree,
    is_idle: bool,
) -> Audit:
    """Who owns each page, row and lock of one pool, one row pool and one tree."""
    claims = [
        PageClaim(OwnerKind.FREE, "free", page_array(pool.free_ids)),
        PageClaim(OwnerKind.HELD, "held", page_array(pool.held_ids)),
        PageClaim(OwnerKind.TREE, "tree", page_array(tree.pages())),
    ]
    claims += [
        PageClaim(OwnerKind.REQUEST, request.rid, page_array(request.pages)) for request in live
    ]
    references = tuple(
        PageClaim(OwnerKind.REQUEST, request.rid, page_array(request.shared_pages))
        for request in live
        if request.shared_pages
    )
    return Audit(
        pools=(
            PoolAudit(
                pool=pool.name,
                page_size=pool.page_size,
                first_page=0,
                num_pages=pool.total,
                claims=tuple(claims),
                references=references,
            ),
        ),
        rows=RowAudit(
            first_row=0,
            num_rows=rows.total,
            free=rows.free_ids,
            held=rows.held_ids,
            by_request={request.rid: request.row for request in live if request.row is not None},
        ),
        lock_refs=tuple(node.lock_ref for node in tree.nodes()),
        held_locks=tree.held_locks,
        is_idle=is_idle,
    )
