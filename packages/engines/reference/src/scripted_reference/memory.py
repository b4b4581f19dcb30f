"""The two pools of the engine: KV slots, handed out page by page, and request rows.

A *slot* holds the KV of one token, a *page* is `page_size` consecutive slots, and a *row* maps the
positions of one request to slots. Page 0 is reserved: it stays zero, so that a masked read lands on
something that adds nothing. Slot indices that are handed out therefore start at `page_size`.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

from scripted_reference.errors import DoubleFreeError

IntArray = npt.NDArray[np.int64]

_NAMED_AT_MOST: Final = 16


def paged_growth(start: int, end: int, page_size: int) -> int:
    """Return how many tokens' worth of new pages it takes to grow from `start` tokens to `end`."""
    if page_size == 1:
        return end - start
    return (-(-end // page_size) + (-start // page_size)) * page_size


class TokenToKVPool:
    """The KV storage of the `hash` model: what each slot remembers of its token.

    Attributes:
        slots: structured array of `num_slots` records with the fields `token`, `position` and `chain`
            (the chained hash of the context up to this token).
        words: the same memory as `uint64[num_slots, 2]`: token in the low and position in the high
            half of the first word, chain in the second. A record is 16 bytes wide so that a gather
            moves it in one piece.
    """

    SLOT: Final = np.dtype([("token", "<u4"), ("position", "<u4"), ("chain", "<u8")])

    def __init__(self, *, size: int, page_size: int) -> None:
        self.size = size
        self.page_size = page_size
        self.slots = np.zeros(size + page_size, dtype=self.SLOT)
        self.words: npt.NDArray[np.uint64] = self.slots.view(np.dtype("<u8")).reshape(-1, 2)

    def read(self, slots: int | IntArray) -> npt.NDArray[np.uint64]:
        """Return a copy of a slot, the two `words` of its record, or of several slots."""
        content: npt.NDArray[np.uint64] = self.words[slots].copy()
        return content

    def buffers(self, *, in_window: bool) -> tuple[IntArray, ...]:
        """Return the words as signed numbers; in a window there is a pool of this kind of its own."""
        return () if in_window else (self.words.view(np.int64),)

    def write(self, slots: int | IntArray, content: npt.NDArray[np.uint64]) -> None:
        """Overwrite a slot, or several, with what `read` returned of it or of others."""
        self.words[slots] = content


class PagedTokenAllocator:
    """Hands out KV slots page by page, in an order that depends on nothing but earlier calls.

    The free pages are a stack: a page that was just freed is the first to be used again, so that
    whoever still reads it reads another request's values at once. `size` counts tokens.
    """

    def __init__(self, *, size: int, page_size: int = 1) -> None:
        self.page_size = page_size
        self.num_pages = size // page_size
        self.size = self.num_pages * page_size
        self._stack: IntArray = np.arange(self.num_pages, 0, -1, dtype=np.int64)
        self._free_count = self.num_pages
        self._is_free = np.ones(self.num_pages + 1, dtype=np.bool_)
        self._is_free[0] = False
        self._offsets: IntArray = np.arange(page_size, dtype=np.int64)

    def available_size(self) -> int:
        """Return how many tokens the free pages hold."""
        return self._free_count * self.page_size

    @property
    def free_pages(self) -> IntArray:
        """The ids of the free pages, in no particular order."""
        return self._stack[: self._free_count].copy()

    def alloc(self, need_tokens: int) -> IntArray | None:
        """Take whole pages and return their slot indices, or `None` if there are too few.

        `need_tokens` is a multiple of the page size; `ValueError` otherwise.
        """
        if need_tokens < 0 or need_tokens % self.page_size:
            raise ValueError(
                f"{need_tokens} tokens cannot be taken in whole pages of {self.page_size}"
            )
        return self._slots_of(self._take(need_tokens // self.page_size))

    def alloc_alone(self, need_tokens: int) -> IntArray | None:
        """Do as `alloc`, and take nothing of another pool besides, where there is one."""
        return self._slots_of(PagedTokenAllocator._take(self, need_tokens // self.page_size))

    def alloc_extend(self, *, prefix_len: int, seq_len: int, last_loc: int) -> IntArray | None:
        """Take slots for positions `prefix_len` to `seq_len` of one request, or return `None`.

        `last_loc` is the slot of position `prefix_len - 1`: what is left of its page is used first.
        """
        page_size = self.page_size
        total = seq_len - prefix_len
        from_tail = min(-prefix_len % page_size, total)
        new_pages = -(-(total - from_tail) // page_size)
        fresh = self.alloc(new_pages * page_size)
        if fresh is None:
            return None
        if from_tail == 0:
            return fresh[:total]
        tail = np.arange(last_loc + 1, last_loc + 1 + from_tail, dtype=np.int64)
        return np.concatenate((tail, fresh[: total - from_tail]))

    def alloc_decode(self, *, seq_lens: IntArray, last_locs: IntArray | None) -> IntArray | None:
        """Take one slot for each request of a batch, or return `None`.

        `seq_lens` counts the new tokens in; `last_locs` are the slots of the tokens before them, and
        may be `None` with pages of one slot.
        """
        if self.page_size == 1:
            return self._take(len(seq_lens))
        assert last_locs is not None, "pages of several slots need the last locations"
        starts_page = seq_lens % self.page_size == 1
        pages = self._take(int(np.count_nonzero(starts_page)))
        if pages is None:
            return None
        locs = last_locs + 1
        locs[starts_page] = pages * self.page_size
        return locs

    def free(self, indices: IntArray) -> None:
        """Return the pages of these slots; freeing any slot of a page frees the page.

        Raises `DoubleFreeError`, and frees nothing, when one of them is free already, named twice
        (with pages of one slot), reserved, or not of this pool.
        """
        if len(indices) == 0:
            return
        pages = np.unique(indices // self.page_size if self.page_size > 1 else indices)
        if pages[0] < 1 or pages[-1] > self.num_pages:
            foreign = pages[(pages < 1) | (pages > self.num_pages)]
            raise DoubleFreeError(f"{self._named(foreign)} were freed but are not of this pool")
        if self.page_size == 1 and len(pages) != len(indices):
            repeated = np.flatnonzero(np.bincount(indices) > 1)
            raise DoubleFreeError(f"{self._named(repeated)} were freed twice in one call")
        again = self._is_free[pages]
        if again.any():
            raise DoubleFreeError(
                f"{self._named(pages[again])} were freed but are free already",
                hint="look at the last two owners of these slots: one of them kept a stale copy",
            )
        count = len(pages)
        self._stack[self._free_count : self._free_count + count] = pages[::-1]
        self._free_count += count
        self._is_free[pages] = True

    def sort_free(self) -> None:
        """Order the free pages as in a new pool, so that the past no longer shows in what is taken."""
        self._stack[: self._free_count] = np.sort(self._stack[: self._free_count])[::-1]

    def _take(self, num_pages: int) -> IntArray | None:
        left = self._free_count - num_pages
        if left < 0:
            return None
        pages = self._stack[left : self._free_count][::-1].copy()
        self._free_count = left
        self._is_free[pages] = False
        return pages

    def _slots_of(self, pages: IntArray | None) -> IntArray | None:
        if pages is None or self.page_size == 1:
            return pages
        return (pages[:, None] * self.page_size + self._offsets).reshape(-1)

    def _named(self, pages: IntArray) -> str:
        first = ", ".join(str(page * self.page_size) for page in pages[:_NAMED_AT_MOST])
        more = f" and {len(pages) - _NAMED_AT_MOST} more" if len(pages) > _NAMED_AT_MOST else ""
        if self.page_size == 1:
            return f"KV slots {first}{more}"
        return f"KV pages of {self.page_size} slots that start at {first}{more}"


class ReqToTokenPool:
    """The rows: `req_to_token[row, position]` is the slot of a request's token.

    Attributes:
        req_to_token: `int64[size, max_context_len]`; what lies behind a request's length is stale.
        free_slots: the free row indices; the first is the next to be taken.
    """

    def __init__(self, *, size: int, max_context_len: int) -> None:
        self.size = size
        self.max_context_len = max_context_len
        # int64 although int32 would do: NumPy gathers by int64 without a conversion.
        self.req_to_token: IntArray = np.zeros((size, max_context_len), dtype=np.int64)
        self.free_slots: list[int] = list(range(size))

    def available_size(self) -> int:
        """Return how many rows are free."""
        return len(self.free_slots)

    def alloc(self, n: int = 1) -> list[int] | None:
        """Take `n` rows and return their indices, or `None` if there are too few."""
        if n > len(self.free_slots):
            return None
        taken = self.free_slots[:n]
        del self.free_slots[:n]
        return taken

    def free(self, idx: int) -> None:
        """Return a row; `DoubleFreeError` when it is free already or not of this pool."""
        if not 0 <= idx < self.size:
            raise DoubleFreeError(f"request row {idx} was freed but is not of this pool")
        if idx in self.free_slots:
            raise DoubleFreeError(f"request row {idx} was freed but is free already")
        self.free_slots.append(idx)

    def sort_free(self) -> None:
        """Order the free rows as in a new pool."""
        self.free_slots.sort()
