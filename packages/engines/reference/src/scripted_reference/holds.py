"""Memory that somebody outside the scheduler holds, so that the engine has to make do with less."""

from __future__ import annotations

from typing import Final

import numpy as np

from scripted_reference.errors import HoldError
from scripted_reference.memory import IntArray, PagedTokenAllocator, ReqToTokenPool

_NO_PAGES: Final[IntArray] = np.empty(0, dtype=np.int64)


class PageHolds:
    """Takes pages out of one pool on behalf of somebody else, and keeps the account."""

    def __init__(self, allocator: PagedTokenAllocator) -> None:
        self.allocator = allocator
        self._is_held = np.zeros(allocator.num_pages + 1, dtype=np.bool_)
        self._count = 0

    @property
    def count(self) -> int:
        """How many pages are held."""
        return self._count

    def pages(self) -> IntArray:
        """Return the ids of the held pages, ascending."""
        return np.flatnonzero(self._is_held) if self._count else _NO_PAGES

    def hold(self, n: int) -> IntArray:
        """Take `n` pages of this pool alone and return their slots; `HoldError` if too few are free."""
        page_size = self.allocator.page_size
        slots = self.allocator.alloc_alone(n * page_size) if n >= 0 else None
        if slots is None:
            raise HoldError(
                f"{n} KV pages cannot be held: "
                f"{self.allocator.available_size() // page_size} are free",
                hint="evict the prefix tree first, or hold fewer",
            )
        self._is_held[slots // page_size] = True
        self._count += n
        return slots

    def release(self, indices: IntArray) -> None:
        """Give back held pages, named by their slot indices; `HoldError` when one is not held."""
        page_size = self.allocator.page_size
        pages = np.unique(np.asarray(indices, dtype=np.int64) // page_size)
        foreign = [int(page) for page in pages if not self._is_held_page(int(page))]
        if foreign:
            raise HoldError(f"KV pages {foreign} were released but are not held")
        self._is_held[pages] = False
        self._count -= len(pages)
        self.allocator.free(pages * page_size)

    def _is_held_page(self, page: int) -> bool:
        return 0 < page < len(self._is_held) and bool(self._is_held[page])


class MemoryHolds:
    """What is held of the full pool and of the request rows."""

    def __init__(self, *, allocator: PagedTokenAllocator, rows: ReqToTokenPool) -> None:
        self._pages = PageHolds(allocator)
        self._rows = rows
        self._held_rows: list[int] = []

    @property
    def page_count(self) -> int:
        """How many pages are held."""
        return self._pages.count

    @property
    def row_count(self) -> int:
        """How many rows are held."""
        return len(self._held_rows)

    def pages(self) -> IntArray:
        """Return the ids of the held pages, ascending."""
        return self._pages.pages()

    def rows(self) -> tuple[int, ...]:
        """Return the held rows, in the order in which they were taken."""
        return tuple(self._held_rows)

    def hold_pages(self, n: int) -> IntArray:
        """Take `n` pages and return their slot indices; `HoldError` when fewer are free."""
        return self._pages.hold(n)

    def release_pages(self, indices: IntArray) -> None:
        """Give back held pages, named by their slot indices; `HoldError` when one is not held."""
        self._pages.release(indices)

    def hold_rows(self, n: int) -> list[int]:
        """Take `n` request rows and return them; `HoldError` when fewer are free."""
        taken = self._rows.alloc(n) if n >= 0 else None
        if taken is None:
            raise HoldError(
                f"{n} request rows cannot be held: {self._rows.available_size()} are free",
                hint="hold fewer, or wait for running requests to end",
            )
        self._held_rows.extend(taken)
        return taken

    def release_rows(self, rows: list[int]) -> None:
        """Give back held rows; `HoldError` when one is not held."""
        foreign = [row for row in rows if row not in self._held_rows]
        if foreign:
            raise HoldError(f"request rows {foreign} were released but are not held")
        for row in rows:
            self._held_rows.remove(row)
            self._rows.free(row)
