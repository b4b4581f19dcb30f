"""The decision on the coming batch: prefill before decode, within what the pools can hold."""

from __future__ import annotations

from typing import TYPE_CHECKING

from scripted_reference.admission import PrefillAdder
from scripted_reference.policy import order_waiting
from scripted_reference.retract import OUT_OF_MEMORY, NewTokenRatio, pick_victim
from scripted_reference.schedule_batch import ForwardMode, ScheduleBatch

if TYPE_CHECKING:
    from scripted_reference.scheduler import Scheduler


class BatchBuilder:
    """Makes and prepares the batches of a scheduler.

    Attributes:
        new_token_ratio: how much admission reserves for what is running.
    """

    def __init__(self, scheduler: Scheduler) -> None:
        self._scheduler = scheduler
        self._rows = scheduler.req_to_token_pool
        self._allocator = scheduler.token_to_kv_pool_allocator
        self._page_size = scheduler.page_size
        self.new_token_ratio = NewTokenRatio(
            conservativeness=scheduler.server_args.schedule_conservativeness
        )

    def next_prefill(self) -> ScheduleBatch | None:
        """Return a prepared prefill batch, or `None` when nothing can be admitted."""
        scheduler = self._scheduler
        chunked = scheduler.chunked_req
        if chunked is None and not scheduler.waiting_queue:
            return None  # first, since it is so in most iterations
        rows_left = self.room_for_newcomers()
        if chunked is None and rows_left == 0:
            return None
        if chunked is not None:
            scheduler.memory.leave_window([chunked])
        adder = self.make_adder()
        if chunked is not None and not adder.add_chunked_req(chunked):
            return None
        admitted = self.admit_waiting(adder, rows_left)
        if not adder.can_run_list:
            return None
        scheduler.waiting_queue = scheduler.waiting_queue[admitted:]
        scheduler.chunked_req = adder.chunked_req
        if adder.chunked_req is not None:
            adder.chunked_req.is_chunked += 1
        batch = ScheduleBatch(adder.can_run_list, ForwardMode.EXTEND, chunked_req=adder.chunked_req)
        scheduler.memory.evict_until(batch.extend_tokens_needed(self._page_size))
        batch.prepare_for_extend(rows=self._rows, allocator=self._allocator)
        return batch

    def room_for_newcomers(self) -> int:
        """Return how many requests can join: each takes a row."""
        return self._rows.available_size()

    def make_adder(self) -> PrefillAdder:
        """Return the budgets of the coming prefill batch."""
        scheduler = self._scheduler
        args = scheduler.server_args
        return PrefillAdder(
            tree_cache=scheduler.tree_cache,
            allocator=self._allocator,
            running=scheduler.decoding(),
            new_token_ratio=self.new_token_ratio.current,
            max_prefill_tokens=args.max_prefill_tokens,
            chunk_tokens=args.chunk_tokens,
            window=scheduler.memory.window_budget(scheduler.decoding()),
        )

    def admit_waiting(self, adder: PrefillAdder, rows_left: int) -> int:
        """Admit from the front of the ordered queue until one does not fit; return how many."""
        if rows_left == 0:
            return 0
        scheduler = self._scheduler
        args = scheduler.server_args
        order_waiting(
            scheduler.waiting_queue,
            policy=args.schedule_policy,
            by_priority=args.enable_priority_scheduling,
            tree_cache=scheduler.tree_cache,
        )
        admitted = 0
        for req in scheduler.waiting_queue:
            if admitted == rows_left or not adder.add_one_req(req):
                break
            admitted += 1
        return admitted

    def next_decode(self) -> ScheduleBatch | None:
        """Return the running batch, prepared for one more token each, or `None` when it is empty."""
        scheduler = self._scheduler
        if scheduler.running_batch.reqs:
            self.make_room_for_decode()
        batch = scheduler.running_batch
        if not batch.reqs:
            return None
        if not batch.is_indexed:
            batch.index_for_decode(unprocessed=scheduler.unprocessed_tokens())
        batch.prepare_for_decode(rows=self._rows, allocator=self._allocator)
        return batch

    def make_room_for_decode(self) -> None:
        """Evict, then retract, until each running request can get the slot of its next token."""
        self._scheduler.memory.leave_window(self._scheduler.running_batch.reqs)
        if self._has_room():
            self.new_token_ratio.decay()
            return
        while not self._has_room():
            self.give_way()
        self.new_token_ratio.after_retraction(self._scheduler.running_batch.reqs)

    def give_way(self) -> None:
        """Free memory for the running requests at the expense of one of them, or of the chunked one.

        The token that a retracted request has in flight is lost, and comes again. The last request is
        aborted only when its own result in flight does not end it.
        """
        scheduler = self._scheduler
        running = scheduler.running_batch.reqs
        if len(running) > 1:
            scheduler.departures.retract_running(pick_victim(running))
        elif scheduler.chunked_req is not None:
            scheduler.departures.retract_chunked()
        elif len(scheduler.in_flight):
            scheduler.process_in_flight()
        else:
            scheduler.departures.abort(
                running[0], f"{OUT_OF_MEMORY} ({scheduler.memory.describe()})."
            )

    def _has_room(self) -> bool:
        scheduler = self._scheduler
        needed = scheduler.running_batch.decode_tokens_needed(self._page_size)
        return scheduler.memory.evict_until(needed)
