from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scripted_core.views import Audit, OwnerKind, PageClaim, PoolAudit, RowAudit
from scripted_hook.invariants import check_audit
from scripted_registry.ci import register_cpu_ci

register_cpu_ci(est_time=3, stage="unit", runner_config="cpu")

KINDS = (OwnerKind.FREE, OwnerKind.TREE, OwnerKind.REQUEST, OwnerKind.HELD, OwnerKind.IN_FLIGHT)


def claim(kind, owner, pages):
    return PageClaim(kind, owner, np.asarray(pages, dtype=np.int64))


def pool_audit(owned, *, first_page=0, num_pages=None, references=()):
    """``owned`` maps (kind, owner) to page ids."""
    total = sum(len(pages) for pages in owned.values()) if num_pages is None else num_pages
    return PoolAudit(
        pool="full",
        page_size=4,
        first_page=first_page,
        num_pages=total,
        claims=tuple(claim(kind, owner, pages) for (kind, owner), pages in owned.items()),
        references=tuple(claim(OwnerKind.REQUEST, owner, pages) for owner, pages in references),
    )


def audit(pool, *, rows=None, lock_refs=(), held_locks=0, is_idle=False):
    return Audit((pool,), rows, lock_refs, held_locks, is_idle)


@st.composite
def sound(draw):
    """Pages split over owners, and block tables that share pages of the tree."""
    first = draw(st.integers(0, 3))
    owners = draw(st.lists(st.integers(0, len(KINDS) - 1), min_size=2, max_size=40))
    owned = {(kind, f"{kind}-{i}"): [] for i, kind in enumerate(KINDS)}
    keys = list(owned)
    for page, owner in enumerate(owners, start=first):
        owned[keys[owner]].append(page)
    owned = {key: draw(st.permutations(pages)) for key, pages in owned.items()}
    tree = owned[keys[1]]
    shared = draw(st.lists(st.sampled_from(tree), max_size=5)) if tree else []
    return owned, first, len(owners), [("sharer", shared)] if shared else []


def check(case):
    owned, first, total, references = case
    pool = pool_audit(owned, first_page=first, num_pages=total, references=references)
    found = check_audit(audit(pool), step=7)
    # Large pools are checked in another way: with many free pages before its own it says the same.
    more = 4_000
    owned = {key: [page + more for page in pages] for key, pages in owned.items()}
    owned[OwnerKind.FREE, "before"] = range(first, first + more)
    references = [(owner, [page + more for page in pages]) for owner, pages in references]
    large = pool_audit(owned, first_page=first, num_pages=total + more, references=references)
    also = check_audit(audit(large), step=7)
    assert [violation.code for violation in also] == [violation.code for violation in found]
    return found


@given(sound())
def test_a_sound_audit_is_never_reported(case):
    assert check(case) == []


@settings(max_examples=200)
@given(case=sound(), data=st.data())
def test_any_single_corruption_is_found(case, data):
    owned, first, total, references = case
    key = data.draw(st.sampled_from([key for key, pages in owned.items() if pages]))
    page = data.draw(st.sampled_from(owned[key]))
    how = data.draw(st.sampled_from(["drop", "duplicate", "move", "outside"]))
    owned = {k: list(pages) for k, pages in owned.items()}
    if how == "drop":
        owned[key].remove(page)
        wanted = "page-orphaned"
    elif how == "duplicate":
        owned[data.draw(st.sampled_from(list(owned)))].append(page)
        wanted = "page-owned-twice"
    elif how == "move":
        others = [p for p in range(first, first + total) if p != page]
        owned[key][owned[key].index(page)] = data.draw(st.sampled_from(others))
        wanted = "page-orphaned"
    else:
        owned[key].append(first + total + data.draw(st.integers(0, 50)))
        wanted = "page-outside-pool"
    found = check((owned, first, total, references))
    codes = {violation.code for violation in found}
    assert wanted in codes
    if how == "move":
        assert "page-owned-twice" in codes
    assert all(violation.step == 7 for violation in found)
    assert all(violation.subject for violation in found)


@given(case=sound(), data=st.data())
def test_a_shared_page_that_the_tree_does_not_own_is_found(case, data):
    owned, first, total, _ = case
    tree = {page for (kind, _), pages in owned.items() if kind is OwnerKind.TREE for page in pages}
    others = [page for page in range(-2, first + total + 3) if page not in tree]
    stale = data.draw(st.sampled_from(others))
    found = check((owned, first, total, [("sharer", [stale]), ("other", sorted(tree))]))
    assert [violation.code for violation in found] == ["stale-reference"]
    assert "sharer" in found[0].owners
    assert str(stale) in found[0].message


def test_a_page_below_the_pool_is_outside():
    pool = pool_audit({(OwnerKind.FREE, "free"): [0, 1, 2, 3]}, first_page=1, num_pages=3)
    assert [v.code for v in check_audit(audit(pool), step=1)] == ["page-outside-pool"]


def test_a_negative_page_is_a_violation_and_no_crash():
    pool = pool_audit({(OwnerKind.FREE, "free"): [0, 1, -1]}, num_pages=3)
    codes = {v.code for v in check_audit(audit(pool), step=1)}
    assert {"page-outside-pool", "page-orphaned"} <= codes


def test_a_garbage_page_id_costs_no_memory():
    pool = pool_audit({(OwnerKind.FREE, "free"): [0, 1, 2**60]}, num_pages=2)
    (violation,) = check_audit(audit(pool), step=1)
    assert violation.code == "page-outside-pool"
    assert str(2**60) in violation.message
    assert violation.owners == ("free",)


def test_an_empty_claim_list_leaves_every_page_an_orphan():
    pool = pool_audit({}, num_pages=3)
    assert [v.code for v in check_audit(audit(pool), step=1)] == ["page-orphaned"]


def test_a_double_free_within_one_owner_says_how_often():
    pool = pool_audit({(OwnerKind.FREE, "free"): [0, 1, 1]}, num_pages=2)
    (violation,) = check_audit(audit(pool), step=1)
    assert violation.owners == ("free (2 times)",)


def test_many_wrong_pages_are_counted_and_not_all_named():
    pool = pool_audit({(OwnerKind.FREE, "free"): []}, num_pages=500)
    (violation,) = check_audit(audit(pool), step=1)
    assert "500" in violation.message
    assert len(violation.message) < 200


GOOD = pool_audit({(OwnerKind.FREE, "free"): [0, 1]}, num_pages=2)


@given(
    owners=st.lists(st.sampled_from(["free", "held", "request"]), min_size=1, max_size=12),
    first=st.integers(0, 2),
    data=st.data(),
)
def test_rows_are_owned_exactly_once(owners, first, data):
    free = [row for row, owner in enumerate(owners, first) if owner == "free"]
    held = [row for row, owner in enumerate(owners, first) if owner == "held"]
    requests = {f"r{row}": row for row, owner in enumerate(owners, first) if owner == "request"}

    def codes():
        rows = RowAudit(first, len(owners), free, held, requests)
        return {v.code for v in check_audit(audit(GOOD, rows=rows), step=1)}

    assert codes() == set()
    row = data.draw(st.integers(first, first + len(owners) - 1))
    if data.draw(st.booleans()):
        requests["thief"] = row
        assert codes() == {"row-owned-twice"}
    else:
        free, held = [r for r in free if r != row], [r for r in held if r != row]
        requests = {rid: r for rid, r in requests.items() if r != row}
        assert codes() == {"row-orphaned"}


def test_a_row_outside_the_pool_is_found():
    rows = RowAudit(0, 2, [0, 1, 5], [], {})
    (violation,) = check_audit(audit(GOOD, rows=rows), step=1)
    assert violation.code == "row-outside-pool"
    assert violation.owners == ("free",)


@pytest.mark.parametrize(
    ("lock_refs", "held_locks", "is_idle", "codes"),
    [
        ((0, 2), 0, False, []),
        ((0, 0), 0, True, []),
        ((0, 1), 1, True, []),
        ((0, 1), 0, True, ["lock-ref-lost"]),
        ((0, -1), 0, False, ["lock-ref-negative"]),
        ((1, -1), 0, True, ["lock-ref-negative", "lock-ref-lost"]),
    ],
)
def test_lock_refs(lock_refs, held_locks, is_idle, codes):
    case = audit(GOOD, lock_refs=lock_refs, held_locks=held_locks, is_idle=is_idle)
    assert [v.code for v in check_audit(case, step=1)] == codes


# -- pools that do the same --------------------------------------------------------------------------

_PAGES = 4_000  # more than are sorted


def stage(*, free=range(20, _PAGES), tree=range(10), request=range(10, 20), shares=(3,)):
    owned = {
        (OwnerKind.FREE, "free"): free,
        (OwnerKind.TREE, "tree"): tree,
        (OwnerKind.REQUEST, "r"): request,
    }
    return pool_audit(owned, num_pages=_PAGES, references=[("r", shares)])


@pytest.mark.parametrize(
    ("other", "code"),
    [
        (stage(), None),
        (stage(shares=(4, 5)), None),
        (stage(free=[*range(21, _PAGES), 20]), None),
        (stage(free=[*range(20, _PAGES - 1), 7]), "page-owned-twice"),
        (stage(free=range(20, _PAGES - 1)), "page-orphaned"),
        (stage(shares=(12,)), "stale-reference"),
        # The same pages in the same order, and another claim's.
        (stage(tree=range(3), request=range(3, 20)), "stale-reference"),
    ],
)
@pytest.mark.parametrize("is_second", [False, True])
def test_a_pool_beside_a_sound_one_is_checked_as_it_is_alone(other, code, is_second):
    pools = (stage(), other) if is_second else (other, stage(), stage())
    found = check_audit(Audit(pools, None, (), 0, False), step=1)
    codes = [one.code for one in found]
    assert codes == [one.code for one in check_audit(audit(other), step=1)]
    assert codes == [] if code is None else code in codes


def test_a_pool_that_is_as_wrong_as_another_is_told_of_as_well():
    wrong = stage(free=range(20, _PAGES - 1))
    found = check_audit(Audit((wrong, wrong), None, (), 0, False), step=1)
    assert [one.code for one in found] == ["page-orphaned"] * 2
