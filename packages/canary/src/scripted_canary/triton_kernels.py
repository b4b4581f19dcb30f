"""The kernels of ``triton_work``. Numbers are of 64 bits, and wrap around.

A pool's slots are ``DEAD`` where nothing is read. A slot that does not exist, which a wrong table may
name, is the nearest one, as in host memory.
"""
# mypy: ignore-errors

from __future__ import annotations

import triton
import triton.language as tl

from scripted_canary.hashing import GROWTH as _GROWTH
from scripted_canary.hashing import POSITION_SHIFT as _POSITION_SHIFT
from scripted_canary.hashing import WORD_FACTOR as _WORD_FACTOR
from scripted_canary.hashing import WORD_SHIFT as _WORD_SHIFT

DEAD: tl.constexpr = tl.constexpr(-(1 << 62))
GROWTH: tl.constexpr = tl.constexpr(_GROWTH)
POSITION_SHIFT: tl.constexpr = tl.constexpr(_POSITION_SHIFT)
WORD_FACTOR: tl.constexpr = tl.constexpr(int(_WORD_FACTOR))
WORD_SHIFT: tl.constexpr = tl.constexpr(int(_WORD_SHIFT))


@triton.jit
def _raise_flag(flag, wrong):
    found = tl.max(wrong.to(tl.int32), axis=0)
    tl.store(flag, found, mask=found > 0)


@triton.jit
def _existing(slots, num_slots):
    return tl.minimum(tl.maximum(slots, 0), num_slots - 1)


@triton.jit
def probe(flag):
    """Set a flag: to see whether kernels can be compiled and run here."""
    tl.store(flag, 1)


@triton.jit(do_not_specialize=["count"])
def look_up(
    of, positions, ids, slots, table, table_row, table_column, truth_heads, truth_row,
    heads, expected, table_slots, wrong_tokens, wrong_places, flag, count, BLOCK: tl.constexpr,
):  # fmt: skip
    """Compare tokens that are fed with what belongs there, and where they go with the table."""
    index = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    here = index < count
    row = tl.load(of + index, mask=here, other=0)
    position = tl.load(positions + index, mask=here, other=0)
    head = (position << POSITION_SHIFT) + tl.load(ids + index, mask=here, other=0)
    want = tl.load(truth_heads + row * truth_row + position, mask=here, other=0)
    entry = row * table_row + position * table_column
    place = tl.load(table + entry, mask=here, other=0).to(tl.int64)
    goes_to = tl.load(slots + index, mask=here, other=0)
    another_token = here & (head != want)
    another_place = here & (place != goes_to)
    tl.store(heads + index, head, mask=here)
    tl.store(expected + index, want, mask=here)
    tl.store(table_slots + index, place, mask=here)
    tl.store(wrong_tokens + index, another_token, mask=here)
    tl.store(wrong_places + index, another_place, mask=here)
    _raise_flag(flag, another_token | another_place)


@triton.jit(do_not_specialize=["longest", "window"])
def locate(
    rows, starts, table, table_row, table_column, num_full, mapping, slots, verified, longest,
    window, HAS_MAPPING: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """The slots of a pool that each request reads, and how many they are."""
    request = tl.program_id(0)
    column = (tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)).to(tl.int64)
    start = tl.load(starts + request)
    live = (column < start) & (column > start - window) & (column < longest)
    entry = tl.load(rows + request) * table_row + column * table_column
    slot = tl.load(table + entry, mask=live, other=0).to(tl.int64)
    if HAS_MAPPING:
        slot = tl.load(mapping + _existing(slot, num_full), mask=live, other=0).to(tl.int64)
    found = tl.where(live, slot, DEAD)
    tl.store(slots + request * longest + column, found, mask=column < longest)
    tl.atomic_add(verified, tl.sum(live.to(tl.int64), axis=0))


@triton.jit(do_not_specialize=["count"])
def add_hash(
    slots, words, words_row, weights, hashes, count, num_slots, NUM_WORDS: tl.constexpr,
    IS_FIRST: tl.constexpr, BLOCK: tl.constexpr, WORDS: tl.constexpr,
):  # fmt: skip
    """Hash what slots hold in one buffer, and add that to what they hold in those before."""
    index = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    here = index < count
    slot = tl.load(slots + index, mask=here, other=DEAD)
    live = slot != DEAD
    row = _existing(slot, num_slots) * words_row
    total = tl.zeros([BLOCK], dtype=tl.int64)
    if not IS_FIRST:
        total += tl.load(hashes + index, mask=here, other=0)
    for first in range(0, NUM_WORDS, WORDS):
        word = first + tl.arange(0, WORDS)
        there = word < NUM_WORDS
        held = tl.load(
            words + row[:, None] + word[None, :], mask=live[:, None] & there[None, :], other=0
        ).to(tl.int64)
        weight = tl.load(weights + word, mask=there, other=0)
        total += tl.sum(((held >> 32) ^ held) * weight[None, :], axis=1)
    tl.store(hashes + index, total, mask=here)


@triton.jit(do_not_specialize=["longest"])
def compare(
    rows, slots, truth_chains, truth_row, sums, hashes, num_slots,
    wrong, expected, kept, flag, longest, HAS_HASHES: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Compare what was kept of slots, less the hash of their bytes, with the chain that is due."""
    request = tl.program_id(0)
    column = (tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)).to(tl.int64)
    here = column < longest
    index = request * longest + column
    slot = tl.load(slots + index, mask=here, other=DEAD)
    live = slot != DEAD
    chains = truth_chains + tl.load(rows + request) * truth_row
    want = tl.load(chains + column + 1, mask=live, other=0)
    was = tl.load(sums + _existing(slot, num_slots), mask=live, other=0)
    found = was
    if HAS_HASHES:
        found -= tl.load(hashes + index, mask=live, other=0)
    differs = live & (found != want)
    tl.store(expected + index, want, mask=here)
    tl.store(kept + index, was, mask=here)
    tl.store(wrong + index, differs, mask=here)
    _raise_flag(flag, differs)


@triton.jit(do_not_specialize=["count"])
def record(
    of, positions, slots, heads, expected, truth_chains, truth_row, hashes,
    kept_heads, kept_chains, kept_sums, num_slots, count,
    HAS_HASHES: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Keep of slots what was fed there, the chain of that, and the sum of it and their bytes' hash."""
    index = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    here = index < count
    slot = tl.load(slots + index, mask=here, other=-1)
    there = here & (slot >= 0) & (slot < num_slots)
    head = tl.load(heads + index, mask=here, other=0)
    row = tl.load(of + index, mask=here, other=0) * truth_row
    position = tl.load(positions + index, mask=here, other=0)
    known = tl.load(truth_chains + row + position + 1, mask=here, other=0)
    # The chain of what was fed, which differs from the true one where another token was fed.
    chain = known + (head - tl.load(expected + index, mask=here, other=0))
    total = chain
    if HAS_HASHES:
        total += tl.load(hashes + index, mask=here, other=0)
    tl.store(kept_heads + slot, head, mask=there)
    tl.store(kept_chains + slot, chain, mask=there)
    tl.store(kept_sums + slot, total, mask=there)


@triton.jit(do_not_specialize=["count", "further"])
def choose(
    rows, starts, further, ids, truth_heads, heads_row, truth_chains, chains_row, count,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """The tokens ``further`` behind ``starts`` are these: their heads, and the chains up to them."""
    index = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    here = index < count
    row = tl.load(rows + index, mask=here, other=0)
    end = tl.load(starts + index, mask=here, other=0) + further
    head = (end << POSITION_SHIFT) + tl.load(ids + index, mask=here, other=0)
    chains = truth_chains + row * chains_row + end
    word = (head ^ (head >> WORD_SHIFT)) * WORD_FACTOR
    tl.store(truth_heads + row * heads_row + end, head, mask=here)
    tl.store(chains + 1, tl.load(chains, mask=here, other=0) * GROWTH + word, mask=here)
