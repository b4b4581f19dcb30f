"""The slots of a model with sliding-window layers: full slots, and window slots while they last.

Layers with full attention keep the KV of every token, in *full* slots. Layers that see only the last
`length` tokens need no more than those, so their KV is in a smaller pool of *window* slots. A request's
row names full slots; `full_to_swa_index_mapping` leads from a full slot to its window slot, and to slot
0, which stays zero, once that was given back. The scheme and its names are SGLang's.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from scripted_reference.errors import DoubleFreeError
from scripted_reference.memory import IntArray, PagedTokenAllocator, TokenToKVPool


@dataclass(frozen=True, slots=True)
class WindowStorage:
    """Where the sliding-window layers keep their KV.

    Attributes:
        length: tokens that such a layer sees, the newest one included.
        mapping: `int64[full slots]`, the window slot of each; the identity where there is one pool only.
        kv_pool: the `hash` model's storage, by window slot.
    """

    length: int
    mapping: IntArray
    kv_pool: TokenToKVPool

    @property
    def num_slots(self) -> int:
        """Slots of the storage, those of the reserved page included."""
        return self.kv_pool.size + self.kv_pool.page_size


class HybridTokenAllocator(PagedTokenAllocator):
    """Hands out full pages, each together with a page of the window pool.

    `available_size` is that of the full pool; what is free of the window pool is `swa_available_size`.

    Attributes:
        swa_attn_allocator: the window pool's own free list.
        full_to_swa_index_mapping: `int64[full slots]`, 0 where there is no window slot (any more).
    """

    def __init__(self, *, size: int, window_size: int, page_size: int = 1) -> None:
        super().__init__(size=size, page_size=page_size)
        self.swa_attn_allocator = PagedTokenAllocator(size=window_size, page_size=page_size)
        self.full_to_swa_index_mapping: IntArray = np.zeros(self.size + page_size, dtype=np.int64)
        self._mapping_by_page = self.full_to_swa_index_mapping.reshape(-1, page_size)

    def full_available_size(self) -> int:
        """Return how many tokens the free full pages hold."""
        return self.available_size()

    def swa_available_size(self) -> int:
        """Return how many tokens the free window pages hold."""
        return self.swa_attn_allocator.available_size()

    def window_pages_of(self, slots: IntArray) -> IntArray:
        """Return the window page beside the full page of each slot, 0 where there is none."""
        pages: IntArray = self.full_to_swa_index_mapping[slots] // self.page_size
        return pages

    def free(self, indices: IntArray) -> None:
        """Return full pages, and the window pages that are still beside them."""
        super().free(indices)
        self._free_windows(np.unique(indices // self.page_size))

    def free_window(self, indices: IntArray) -> None:
        """Return the window pages beside these full slots; the full pages stay taken.

        Raises `DoubleFreeError`, and frees nothing, when one of them was given back before.
        """
        pages = np.unique(indices // self.page_size)
        gone = pages[self._mapping_by_page[pages, 0] == 0]
        if len(gone):
            raise DoubleFreeError(
                f"{self._named(gone)} have no window slots, and those were freed",
                hint="look at who gave them back when they left the window",
            )
        self._free_windows(pages)

    def move_window(self, source: IntArray, target: IntArray) -> None:
        """Put the window pages beside the full slots `source` beside `target`, which have none."""
        from_pages, to_pages = source // self.page_size, target // self.page_size
        self._mapping_by_page[to_pages] = self._mapping_by_page[from_pages]
        self._mapping_by_page[from_pages] = 0

    def sort_free(self) -> None:
        """Order both free lists as in a new pool."""
        super().sort_free()
        self.swa_attn_allocator.sort_free()

    def _take(self, num_pages: int) -> IntArray | None:
        window = self.swa_attn_allocator
        if num_pages * self.page_size > window.available_size():
            return None
        pages = super()._take(num_pages)
        if pages is None:
            return None
        slots = window.alloc(num_pages * self.page_size)
        assert slots is not None, "there were enough a moment ago"
        self._mapping_by_page[pages] = slots.reshape(-1, self.page_size)
        return pages

    def _free_windows(self, pages: IntArray) -> None:
        starts = self._mapping_by_page[pages, 0]
        self.swa_attn_allocator.free(starts[starts != 0])
        self._mapping_by_page[pages] = 0
