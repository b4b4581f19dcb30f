"""A KV pool over an engine's own free list of pages, for adapters of engines that have one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from scripted_core.errors import ExhaustError
from scripted_core.views import Audit, OwnerKind, PageClaim, PoolAudit


class PageHold:
    """Pages that were taken from a free list; equal to nothing but itself."""

    def __init__(self, pages: Sequence[int]) -> None:
        self.pages = tuple(pages)

    @property
    def count(self) -> int:
        """How many pages are held."""
        return len(self.pages)


class FreeListPool:
    """The ``KvPool`` of an engine without a prefix tree that keeps its free pages in a list.

    ``free`` is the engine's own list, which is changed in place; ``total`` pages of ``page_size``
    tokens have the ids ``first_page`` … ``first_page + total - 1``.
    """

    evictable = 0

    def __init__(
        self,
        *,
        free: list[int],
        total: int,
        page_size: int,
        first_page: int = 0,
        name: str = "full",
    ) -> None:
        self.name = name
        self.page_size = page_size
        self.total = total
        self._free = free
        self._first_page = first_page
        self._holds: list[PageHold] = []

    @property
    def available(self) -> int:
        """Pages on the free list."""
        return len(self._free)

    @property
    def held(self) -> int:
        """Pages in holds."""
        return sum(hold.count for hold in self._holds)

    def hold(self, n: int) -> PageHold:
        """Take ``n`` pages off the free list; ``ExhaustError`` when fewer are there."""
        if n > len(self._free):
            raise ExhaustError(
                f"pool {self.name!r}: {n} pages were asked for and {len(self._free)} are free",
                hint=f"at most {len(self._free)} pages can be held now",
            )
        hold = PageHold([self._free.pop() for _ in range(n)])
        self._holds.append(hold)
        return hold

    def release(self, hold: PageHold) -> None:
        """Put them back; ``ExhaustError`` for a hold that this pool does not have (any more)."""
        if hold not in self._holds:
            raise ExhaustError(
                f"pool {self.name!r} has no such hold", hint="release a hold once, where it is from"
            )
        self._holds.remove(hold)
        self._free.extend(hold.pages)

    def audit(self, pages_by_rid: Mapping[str, Sequence[int]], *, is_idle: bool) -> Audit:
        """Who has each page: the free list, holds, and live requests with ``pages_by_rid``."""
        owners: list[tuple[OwnerKind, str, Sequence[int]]] = [(OwnerKind.FREE, "free", self._free)]
        owners += [(OwnerKind.HELD, "held", hold.pages) for hold in self._holds]
        owners += [(OwnerKind.REQUEST, rid, pages) for rid, pages in pages_by_rid.items()]
        pool = PoolAudit(
            pool=self.name,
            page_size=self.page_size,
            first_page=self._first_page,
            num_pages=self.total,
            claims=tuple(
                PageClaim(kind, owner, np.array(pages, dtype=np.int64))
                for kind, owner, pages in owners
            ),
        )
        return Audit(pools=(pool,), rows=None, lock_refs=(), held_locks=0, is_idle=is_idle)
