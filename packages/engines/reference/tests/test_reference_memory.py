from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scripted_reference.errors import DoubleFreeError
from scripted_reference.memory import (
    PagedTokenAllocator,
    ReqToTokenPool,
    TokenToKVPool,
    paged_growth,
)
from scripted_registry.ci import register_cpu_ci

register_cpu_ci(est_time=1, stage="reference", runner_config="cpu")


def test_slots_start_behind_the_reserved_page() -> None:
    for page_size in (1, 16):
        allocator = PagedTokenAllocator(size=64, page_size=page_size)
        slots = allocator.alloc(64)
        assert slots is not None
        assert slots.tolist() == list(range(page_size, page_size + 64))


def test_size_is_rounded_down_to_whole_pages() -> None:
    allocator = PagedTokenAllocator(size=70, page_size=16)
    assert (allocator.size, allocator.available_size()) == (64, 64)


def test_too_much_is_refused_and_takes_nothing() -> None:
    allocator = PagedTokenAllocator(size=8)
    assert allocator.alloc(9) is None
    assert allocator.available_size() == 8
    assert allocator.alloc(0) is not None


@pytest.mark.parametrize("need", [-16, 8])
def test_only_whole_pages_can_be_taken(need: int) -> None:
    with pytest.raises(ValueError, match="whole pages of 16"):
        PagedTokenAllocator(size=64, page_size=16).alloc(need)


def test_a_freed_page_is_the_next_to_be_used() -> None:
    allocator = PagedTokenAllocator(size=8)
    slots = allocator.alloc(4)
    assert slots is not None
    allocator.free(slots[1:3])
    assert allocator.alloc(3) is not None
    again = allocator.alloc(1)
    assert slots.tolist() == [1, 2, 3, 4]
    assert again is not None
    assert again.tolist() == [6]


def test_freeing_any_slot_of_a_page_frees_the_page() -> None:
    allocator = PagedTokenAllocator(size=64, page_size=16)
    slots = allocator.alloc(32)
    assert slots is not None
    allocator.free(slots[3:9])
    assert allocator.available_size() == 48
    assert 1 in allocator.free_pages
    assert 2 not in allocator.free_pages


def test_a_double_free_names_the_slots_and_frees_nothing() -> None:
    allocator = PagedTokenAllocator(size=8)
    slots = allocator.alloc(4)
    assert slots is not None
    allocator.free(slots[:1])
    with pytest.raises(DoubleFreeError, match="KV slots 1 were freed but are free already"):
        allocator.free(slots)
    assert allocator.available_size() == 5
    with pytest.raises(DoubleFreeError, match="slots 3 were freed twice in one call"):
        allocator.free(np.array([3, 3, 4]))
    assert allocator.available_size() == 5


def test_a_double_free_of_pages_names_where_they_start() -> None:
    allocator = PagedTokenAllocator(size=64, page_size=16)
    slots = allocator.alloc(32)
    assert slots is not None
    allocator.free(slots[16:])
    with pytest.raises(DoubleFreeError, match="pages of 16 slots that start at 32"):
        allocator.free(slots[20:21])


@pytest.mark.parametrize("slot", [0, 9, -1])
def test_what_is_not_of_the_pool_cannot_be_freed(slot: int) -> None:
    with pytest.raises(DoubleFreeError, match="not of this pool"):
        PagedTokenAllocator(size=8).free(np.array([slot]))


def test_extend_uses_up_the_last_page_first() -> None:
    allocator = PagedTokenAllocator(size=64, page_size=16)
    first = allocator.alloc_extend(prefix_len=0, seq_len=20, last_loc=-1)
    assert first is not None
    assert first.tolist() == list(range(16, 36))
    more = allocator.alloc_extend(prefix_len=20, seq_len=34, last_loc=35)
    assert more is not None
    assert more.tolist() == [*range(36, 48), 48, 49]
    within = allocator.alloc_extend(prefix_len=34, seq_len=36, last_loc=49)
    assert within is not None
    assert within.tolist() == [50, 51]
    assert allocator.available_size() == 16
    assert allocator.alloc_extend(prefix_len=36, seq_len=80, last_loc=51) is None
    assert allocator.available_size() == 16


def test_decode_takes_a_page_only_where_one_begins() -> None:
    allocator = PagedTokenAllocator(size=64, page_size=16)
    assert allocator.alloc(32) is not None
    locs = allocator.alloc_decode(seq_lens=np.array([17, 6]), last_locs=np.array([31, 36]))
    assert locs is not None
    assert locs.tolist() == [48, 37]
    assert allocator.available_size() == 16
    crowded = np.array([17, 33])
    assert allocator.alloc_decode(seq_lens=crowded, last_locs=np.array([31, 48])) is None
    assert allocator.available_size() == 16


def test_sorting_what_is_free_forgets_the_past() -> None:
    allocator = PagedTokenAllocator(size=32)
    taken = allocator.alloc(20)
    assert taken is not None
    allocator.free(taken[[3, 17, 5]])
    allocator.free(np.delete(taken, [3, 17, 5]))
    allocator.sort_free()
    fresh = PagedTokenAllocator(size=32)
    assert np.array_equal(allocator.free_pages, fresh.free_pages)


@given(st.data(), st.sampled_from([1, 4]))
def test_pages_are_free_or_taken_never_both(data: st.DataObject, page_size: int) -> None:
    allocator = PagedTokenAllocator(size=16 * page_size, page_size=page_size)
    taken: dict[int, np.ndarray] = {}
    for _ in range(data.draw(st.integers(1, 25))):
        if taken and data.draw(st.booleans()):
            allocator.free(taken.pop(data.draw(st.sampled_from(sorted(taken)))))
        else:
            slots = allocator.alloc(data.draw(st.integers(1, 8)) * page_size)
            if slots is not None:
                taken[int(slots[0])] = slots
        in_use = [page for slots in taken.values() for page in np.unique(slots // page_size)]
        assert sorted([*in_use, *allocator.free_pages]) == list(range(1, 17))


def test_rows() -> None:
    rows = ReqToTokenPool(size=3, max_context_len=8)
    assert rows.alloc(2) == [0, 1]
    assert rows.available_size() == 1
    assert rows.alloc(2) is None
    rows.free(0)
    assert rows.alloc(2) == [2, 0]
    with pytest.raises(DoubleFreeError, match="row 3 was freed but is not of this pool"):
        rows.free(3)
    rows.free(1)
    with pytest.raises(DoubleFreeError, match="row 1 was freed but is free already"):
        rows.free(1)
    rows.free(2)
    rows.free(0)
    rows.sort_free()
    assert rows.free_slots == [0, 1, 2]


def test_words_and_fields_are_the_same_memory() -> None:
    pool = TokenToKVPool(size=4, page_size=2)
    assert len(pool.slots) == 6
    pool.slots[3] = (7, 5, 11)
    assert pool.words[3].tolist() == [7 + (5 << 32), 11]


@given(st.integers(0, 200), st.integers(0, 200), st.sampled_from([1, 4, 16]))
def test_paged_growth_counts_new_pages(start: int, more: int, page_size: int) -> None:
    pages_before = (start + page_size - 1) // page_size
    pages_after = (start + more + page_size - 1) // page_size
    assert paged_growth(start, start + more, page_size) == (pages_after - pages_before) * page_size
