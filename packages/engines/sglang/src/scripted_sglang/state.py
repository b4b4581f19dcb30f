"""SGLang's live state in neutral views."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
from scripted_core.views import (
    Audit,
    OwnerKind,
    PageClaim,
    PdStage,
    PoolAudit,
    QueueView,
    RequestStatus,
    RequestView,
    RowAudit,
    Side,
)
from scripted_hook.adapter import BatchFacts

from scripted_sglang import _compat
from scripted_sglang._compat import IntArray
from scripted_sglang.memory import SglangKvPool, SglangPrefixTree, SglangRowPool


@dataclass
class _Slots:
    """Token slots by owner: the tree's, each request's own, and those that it shares with the tree."""

    tree: IntArray
    own: dict[str, IntArray] = field(default_factory=dict)
    shared: dict[str, IntArray] = field(default_factory=dict)

    def mapped(self, to_pool: Callable[[IntArray], IntArray]) -> _Slots:
        """The same owners in another pool."""
        return _Slots(
            tree=to_pool(self.tree),
            own={rid: to_pool(slots) for rid, slots in self.own.items()},
            shared={rid: to_pool(slots) for rid, slots in self.shared.items()},
        )


class SchedulerState:
    """Reads a scheduler between two iterations, where the scheduler itself would look."""

    def __init__(
        self,
        scheduler: Any,
        *,
        pools: dict[str, SglangKvPool],
        rows: SglangRowPool,
        tree: SglangPrefixTree,
    ) -> None:
        self._scheduler = scheduler
        self._pools = pools
        self._rows = rows
        self._tree = tree
        self._page_size = int(scheduler.page_size)

    # -- requests ------------------------------------------------------------------------------

    def _in_batches(self) -> Iterator[Any]:
        """Requests of every batch that is running, was the last, or waits for its result."""
        scheduler = self._scheduler
        yield from scheduler.running_batch.reqs
        if scheduler.last_batch is not None:
            yield from scheduler.last_batch.reqs
        for batch, *_ in getattr(scheduler, "result_queue", ()):
            yield from batch.reqs
        for batch in _compat.microbatches(scheduler):
            # What ran last in a slot may be long ago: without memory it has gone elsewhere.
            yield from (req for req in batch.reqs if _compat.row_of(req) is not None)

    def live(self) -> dict[str, Any]:
        """Every live request by rid: waiting ones first, then those in batches."""
        scheduler = self._scheduler
        found = {req.rid: req for req in scheduler.waiting_queue}
        for req, _ in _compat.queued_in_pair(scheduler):
            if not req.finished():
                found.setdefault(req.rid, req)
        if scheduler.chunked_req is not None:
            found.setdefault(scheduler.chunked_req.rid, scheduler.chunked_req)
        for req in self._in_batches():
            if not req.finished():
                found.setdefault(req.rid, req)
        return found

    def find(self, rid: str) -> Any | None:
        """One live request."""
        return self.live().get(rid)

    def queues(self) -> QueueView:
        """The rids waiting, running and mid-chunk."""
        chunked = self._scheduler.chunked_req
        waiting = (*(req.rid for req in self._scheduler.waiting_queue), *self.pair_stages())
        running = dict.fromkeys(
            req.rid for req in self._in_batches() if not req.finished() and req is not chunked
        )
        return QueueView(
            waiting=waiting,
            running=tuple(rid for rid in running if rid not in waiting),
            chunked=() if chunked is None else (chunked.rid,),
        )

    def pair_stages(self) -> dict[str, PdStage]:
        """Where requests are that wait in the queues of a prefill or a decode server."""
        return {
            req.rid: stage
            for req, stage in _compat.queued_in_pair(self._scheduler)
            if not req.finished()
        }

    def view(self, req: Any) -> RequestView:
        """One request."""
        kv = _compat.kv_of(req)
        has_memory = _compat.row_of(req) is not None
        waiting = any(req is other for other in self._scheduler.waiting_queue) or any(
            req is other for other, _ in _compat.queued_in_pair(self._scheduler)
        )
        prompt_len = len(req.origin_input_ids)
        node = _compat.node_at(self._scheduler.tree_cache, req.last_node) if has_memory else None
        return RequestView(
            rid=req.rid,
            status=RequestStatus.WAITING if waiting else RequestStatus.RUNNING,
            prompt_len=prompt_len,
            output_len=len(_compat.outputs_of(req)),
            computed_tokens=min(prompt_len, kv.kv_allocated_len)
            if has_memory and not self._is_on_its_way(req)
            else 0,
            kv_pages=-(-kv.kv_allocated_len // self._page_size) if has_memory else 0,
            lock_refs=0 if node is None else _compat.lock_ref_of(node),
            is_chunking=req is self._scheduler.chunked_req,
            priority=getattr(req, "priority", None),
        )

    def _is_on_its_way(self, req: Any) -> bool:
        """Whether KV for it is still to come from the other server of a pair."""
        return _compat.side_of(self._scheduler) is Side.DECODE and any(
            req is other and stage is PdStage.TRANSFERRING
            for other, stage in _compat.queued_in_pair(self._scheduler)
        )

    # -- audit ---------------------------------------------------------------------------------

    def _owners(self) -> dict[str, Any]:
        """Requests that have memory, finished ones included whose memory is not back yet."""
        scheduler = self._scheduler
        found: dict[str, Any] = {}
        chunked = () if scheduler.chunked_req is None else (scheduler.chunked_req,)
        elsewhere = (
            *(req for req, _ in _compat.queued_in_pair(scheduler)),
            *_compat.kept_for_a_transfer(scheduler),
        )
        for req in (*chunked, *scheduler.waiting_queue, *elsewhere, *self._in_batches()):
            if _compat.row_of(req) is not None:
                found.setdefault(req.rid, req)
        return found

    def _transferring(self) -> dict[str, OwnerKind]:
        """What memory of a prefill or decode server is in a transfer, beside that of running requests.

        What a decode server has set aside for KV that comes is the transfer's; a prefill server's prompt
        that is being sent is in flight, and so is what has to stay until a sender is known to be done.
        """
        scheduler = self._scheduler
        side = _compat.side_of(scheduler)
        found = {req.rid: OwnerKind.IN_FLIGHT for req in _compat.kept_for_a_transfer(scheduler)}
        sending = OwnerKind.IN_FLIGHT if side is Side.PREFILL else OwnerKind.TRANSFER
        for req, stage in _compat.queued_in_pair(scheduler):
            if stage in (PdStage.TRANSFERRING, PdStage.TRANSFERRED):
                found.setdefault(req.rid, sending)
        return found

    def describe_batch(self, batch: Any) -> BatchFacts:
        """A batch in neutral words."""
        mode = _compat.forward_mode_of(batch)
        rids = tuple([req.rid for req in batch.reqs])
        if not batch.forward_mode.is_extend():
            return BatchFacts(mode, rids, ())
        decoding = _compat.decoding_rids(batch)
        chunked = self._scheduler.chunked_req
        extend = tuple([rid for rid in rids if rid not in decoding])
        partial = () if chunked is None or chunked.rid not in extend else (chunked.rid,)
        return BatchFacts(mode, rids, extend, partial)

    def audit(self) -> Audit:
        """Who owns each page of each pool, each row and lock."""
        scheduler = self._scheduler
        owners = self._owners()
        slots = _Slots(tree=_compat.tree_tokens(scheduler.tree_cache))
        by_request: dict[str, int] = {}
        table = scheduler.req_to_token_pool.req_to_token
        for rid, req in owners.items():
            kv = _compat.kv_of(req)
            row_id = _compat.row_of(req)
            assert row_id is not None
            by_request[rid] = row_id
            row = _compat.as_array(table[row_id, : kv.kv_allocated_len])
            slots.own[rid] = row[kv.cache_protected_len :]
            slots.shared[rid] = row[: kv.cache_protected_len]
        audits = [self._pool_audit("full", slots)]
        if "swa" in self._pools:
            window = partial(_compat.window_slots, scheduler)
            audits.append(self._pool_audit("swa", slots.mapped(window)))
        return Audit(
            pools=tuple(audits),
            rows=RowAudit(
                1, self._rows.total, self._rows.free_rows, self._rows.held_rows, by_request
            ),
            lock_refs=[
                _compat.lock_ref_of(node) for node in _compat.tree_nodes(scheduler.tree_cache)
            ]
            if self._tree.enabled
            else [],
            held_locks=self._tree.held_locks,
            is_idle=not self.live() and not owners,
        )

    def _pool_audit(self, name: str, slots: _Slots) -> PoolAudit:
        pool = self._pools[name]
        kinds = self._transferring()
        claims = [
            PageClaim(OwnerKind.FREE, "free", pool.free_pages()),
            PageClaim(OwnerKind.TREE, "tree", self._pages(slots.tree)),
            PageClaim(OwnerKind.HELD, "held", pool.held_pages()),
        ]
        claims += [
            PageClaim(kinds.get(rid, OwnerKind.REQUEST), rid, self._pages(own))
            for rid, own in slots.own.items()
        ]
        references = tuple(
            PageClaim(OwnerKind.REQUEST, rid, self._pages(shared))
            for rid, shared in slots.shared.items()
            if len(shared)
        )
        return PoolAudit(name, self._page_size, 1, pool.total, tuple(claims), references)

    def _pages(self, slots: IntArray) -> IntArray:
        """Page ids of slots; the slots of a page stand together, in order."""
        return slots if self._page_size == 1 else np.unique(slots // self._page_size)
