"""Faults of pages and rows: who has them, and who gives them back."""

from __future__ import annotations

import numpy as np

from scripted_reference.admission import PrefillAdder
from scripted_reference.batching import BatchBuilder
from scripted_reference.departures import Departures
from scripted_reference.engine_memory import EngineMemory
from scripted_reference.faults.fault import Area, seeded
from scripted_reference.holds import MemoryHolds
from scripted_reference.memory import IntArray, PagedTokenAllocator, ReqToTokenPool
from scripted_reference.radix import RadixCache
from scripted_reference.request import Req
from scripted_reference.schedule_batch import ScheduleBatch

_HERE = Area.MEMORY


@seeded(
    "double-free-after-retract",
    _HERE,
    stands_for="a retraction that frees, of a batch that frees once more when it is filtered",
)
class DoubleFreeAfterRetract(Departures):
    """The last page of a retracted request is freed twice."""

    def requeue(self, req: Req) -> None:
        """Free the last page before it is freed."""
        table = self._scheduler.req_to_token_pool.req_to_token
        own = table[req.req_pool_idx, req.cache_protected_len : req.kv_allocated_len].copy()
        super().requeue(req)
        self._scheduler.token_to_kv_pool_allocator.free(own[-1:])


@seeded(
    "retract-frees-shared-prefix",
    _HERE,
    stands_for="a release that begins at position 0, and not where the request's own pages begin",
)
class RetractFreesSharedPrefix(RadixCache):
    """A retracted request frees the pages too that the prefix tree owns."""

    def cache_finished_req(self, req: Req, *, is_insert: bool = True) -> None:
        """Take all of the row for the request's own."""
        if not is_insert:
            req.cache_protected_len = 0
        super().cache_finished_req(req, is_insert=is_insert)


@seeded(
    "retract-leaks-output-pages",
    _HERE,
    stands_for="a release by the length of the prompt, written before requests came back with output",
)
class RetractLeaksOutputPages(RadixCache):
    """What a retracted request has written behind its prompt is never freed."""

    def cache_finished_req(self, req: Req, *, is_insert: bool = True) -> None:
        """Free as far as the prompt goes."""
        if not is_insert:
            req.kv_allocated_len = min(req.kv_allocated_len, len(req.origin_input_ids))
        super().cache_finished_req(req, is_insert=is_insert)


@seeded(
    "finish-leaks-tail",
    _HERE,
    stands_for="the part of the last page that is too short for the tree: SGLang's page_size > 1",
)
class FinishLeaksTail(RadixCache):
    """Slots of a finished request that do not fill a page are not given back."""

    def cache_finished_req(self, req: Req, *, is_insert: bool = True) -> None:
        """Free as far as whole pages go."""
        if is_insert:
            whole = req.kv_committed_len // self.page_size * self.page_size
            req.kv_allocated_len = max(whole, req.cache_protected_len)
        super().cache_finished_req(req, is_insert=is_insert)


@seeded(
    "page-freed-while-cached",
    _HERE,
    stands_for="an insert into the tree, and a free of the same range of the row",
)
class PageFreedWhileCached(RadixCache):
    """The last page that a finished request leaves to the prefix tree is freed as well."""

    def cache_finished_req(self, req: Req, *, is_insert: bool = True) -> None:
        """Free a page of the tree."""
        super().cache_finished_req(req, is_insert=is_insert)
        whole = req.kv_committed_len // self.page_size * self.page_size
        if is_insert and not self.disable and whole > req.cache_protected_len:
            self.token_to_kv_pool_allocator.free(self._row(req)[whole - 1 : whole])


@seeded(
    "duplicates-leaked",
    _HERE,
    stands_for="two requests that compute one prefix at once: the slower one's copy",
)
class DuplicatesLeaked(RadixCache):
    """KV that another request had already left in the tree is not freed by the second one."""

    def cache_unfinished_req(self, req: Req, *, chunked: bool = False) -> None:
        """Lose as many pages as are duplicates."""
        known = self.match_prefix(req.fill_ids[: req.kv_committed_len], extra_key=req.lora_path)
        duplicates = len(known.indices) - req.cache_protected_len
        super().cache_unfinished_req(req, chunked=chunked)
        if duplicates > 0:
            self.token_to_kv_pool_allocator.alloc(duplicates)


@seeded(
    "row-keeps-freed-duplicates",
    _HERE,
    stands_for="the row that has to be pointed to the tree's copy once its own is freed",
)
class RowKeepsFreedDuplicates(RadixCache):
    """A request goes on reading its own copy of a prefix after that was freed for the tree's."""

    def cache_unfinished_req(self, req: Req, *, chunked: bool = False) -> None:
        """Put the old slots back into the row."""
        row = self._row(req)
        before = row[: req.kv_committed_len].copy()
        super().cache_unfinished_req(req, chunked=chunked)
        row[: len(before)] = before


@seeded(
    "stale-row",
    _HERE,
    stands_for="a row that is reused before all of its entries are written",
)
class StaleRow(BatchBuilder):
    """After a prefix hit, the last entry of the prefix is what the row's former owner had there."""

    def next_prefill(self) -> ScheduleBatch | None:
        """Restore one entry of each new row."""
        table = self._rows.req_to_token
        before = table.copy()
        batch = super().next_prefill()
        if batch is not None:
            for row, start, req in zip(batch.rows, batch.prefix_lens, batch.reqs, strict=True):
                if start and start == len(req.prefix_indices) and not req.output_ids:
                    table[row, start - 1] = before[row, start - 1]
        return batch


@seeded(
    "row-lost-on-abort",
    _HERE,
    stands_for="an abort path that frees KV and forgets the row",
)
class RowLostOnAbort(Departures):
    """An aborted request's row does not come back."""

    def abort(self, req: Req, message: str) -> None:
        """Take a row for nobody."""
        had_row = req.req_pool_idx is not None
        super().abort(req, message)
        if had_row:
            self._scheduler.req_to_token_pool.alloc(1)


@seeded(
    "row-lost-on-retract",
    _HERE,
    stands_for="a retraction that frees KV and forgets the row",
)
class RowLostOnRetract(EngineMemory):
    """A retracted request's row does not come back."""

    def release(self, req: Req, *, keep: bool) -> None:
        """Take the row out of the free ones again."""
        row = req.req_pool_idx
        super().release(req, keep=keep)
        if not keep and row is not None:
            self.rows.free_slots.remove(row)


@seeded(
    "row-lost-when-turned-away",
    _HERE,
    stands_for="resources taken for a request before the last check that it can be admitted",
)
class RowLostWhenTurnedAway(BatchBuilder):
    """A request that does not fit into the batch has been given a row, which nobody takes back."""

    def admit_waiting(self, adder: PrefillAdder, rows_left: int) -> int:
        """Take a row for whoever is turned away for want of memory."""
        admitted = super().admit_waiting(adder, rows_left)
        if admitted < min(rows_left, len(self._scheduler.waiting_queue)):
            self._rows.alloc(1)
        return admitted


@seeded(
    "row-handed-out-twice",
    _HERE,
    stands_for="a free list that is read and not advanced",
)
class RowHandedOutTwice(ReqToTokenPool):
    """A row that was taken is still on the free list."""

    def alloc(self, n: int = 1) -> list[int] | None:
        """Leave the first one where it is."""
        taken = super().alloc(n)
        if taken:
            self.free_slots.insert(0, taken[0])
        return taken


@seeded(
    "lock-lost-on-abort",
    _HERE,
    stands_for="`dec_lock_ref` missing on an abort path",
)
class LockLostOnAbort(Departures):
    """The prefix of an aborted request stays locked for good."""

    def abort(self, req: Req, message: str) -> None:
        """Lock it once more."""
        node = req.last_node
        super().abort(req, message)
        if node is not None:
            self._scheduler.tree_cache.inc_lock_ref(node)


@seeded(
    "held-page-handed-out",
    _HERE,
    stands_for="a reservation that is counted in one place and not in the free list",
)
class HeldPageHandedOut(MemoryHolds):
    """One of the pages that are held from outside is free for everybody."""

    def hold_pages(self, n: int) -> IntArray:
        """Give one back at once."""
        slots = super().hold_pages(n)
        self._pages.allocator.free(slots[-1:])
        return slots


@seeded(
    "page-begins-one-token-early",
    _HERE,
    stands_for="the arithmetic of `alloc_decode` at a page border",
)
class PageBeginsOneTokenEarly(PagedTokenAllocator):
    """A decode takes a new page for the last slot of the old one."""

    def alloc_decode(self, *, seq_lens: IntArray, last_locs: IntArray | None) -> IntArray | None:
        """Take it one token before its time."""
        if self.page_size == 1 or last_locs is None:
            return super().alloc_decode(seq_lens=seq_lens, last_locs=last_locs)
        early = seq_lens % self.page_size == 0
        pages = self._take(int(np.count_nonzero(early)))
        if pages is None:
            return None
        locs = last_locs + 1
        locs[early] = pages * self.page_size
        return locs


@seeded(
    "decode-without-room",
    _HERE,
    stands_for="a check for memory before a decode that looks at the wrong figure",
)
class DecodeWithoutRoom(BatchBuilder):
    """A decode is launched without looking whether there are slots for its tokens."""

    def _has_room(self) -> bool:
        return True
