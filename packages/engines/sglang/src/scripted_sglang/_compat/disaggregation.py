"""The queues of a prefill or a decode server, and what they do without an accelerator.

Read as SGLang 0.5.23 has them (``disaggregation/prefill.py``, ``disaggregation/decode.py``).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from scripted_core.views import PdStage, Side

from scripted_sglang._compat.as_shipped import is_as_shipped
from scripted_sglang._compat.requests import row_of


def side_of(scheduler: Any) -> Side | None:
    """Which server of a pair a scheduler belongs to; ``None`` for one that does both."""
    mode = getattr(scheduler, "disaggregation_mode", None)
    return None if mode is None or mode.value == "null" else Side(mode.value)


def queued_in_pair(scheduler: Any) -> Iterator[tuple[Any, PdStage]]:
    """Requests in the queues that only such a server has, in the order in which they pass through them.

    Those in its waiting queue and in batches are not among them.
    """
    side = side_of(scheduler)
    if side is Side.PREFILL:
        for req in scheduler.disagg_prefill_bootstrap_queue.queue:
            yield req, PdStage.QUEUED
        for req in scheduler.disagg_prefill_inflight_queue:
            yield req, PdStage.TRANSFERRING
    elif side is Side.DECODE:
        yield from _queued_in_decode(scheduler)


def _queued_in_decode(scheduler: Any) -> Iterator[tuple[Any, PdStage]]:
    allocating = scheduler.disagg_decode_prealloc_queue
    transferring = scheduler.disagg_decode_transfer_queue
    for one in allocating.queue:
        yield one.req, PdStage.QUEUED
    for one in transferring.queue:
        yield one.req, PdStage.TRANSFERRED if _has_arrived(one) else PdStage.TRANSFERRING
    for req in (*allocating.retracted_queue, *allocating.held_rebootstrap_reqs):
        yield req, PdStage.RETRACTED


def _has_arrived(one: Any) -> bool:
    receiver = one.kv_receiver
    if receiver is None:
        return False
    from sglang.srt.disaggregation.base import KVPoll

    return bool(receiver.kv_mgr.request_status.get(receiver.bootstrap_room) == KVPoll.Success)


def kept_for_a_transfer(scheduler: Any) -> Iterator[Any]:
    """Requests that have ended, and whose memory the other side may still be writing to."""
    if side_of(scheduler) is Side.DECODE:
        for one, *_ in scheduler.disagg_decode_transfer_queue._deferred_releases:
            if row_of(one.req) is not None:
                yield one.req


def waits_to_be_recomputed(scheduler: Any) -> bool:
    """Whether a paused decode server keeps retracted requests where its idleness does not count them."""
    return side_of(scheduler) is Side.DECODE and bool(
        scheduler.disagg_decode_prealloc_queue.held_rebootstrap_reqs
    )


def abort_what_waits_to_be_recomputed(scheduler: Any, request: Any) -> None:
    """AFTER ``abort_request``, which does not look at what a pause has retracted on a decode server.

    See `docs/findings/sglang-pd-abort-during-a-retraction.md` in the repository.
    """
    if is_as_shipped() or not waits_to_be_recomputed(scheduler):
        return
    from sglang.srt.managers.scheduler import _make_abort_req

    queue = scheduler.disagg_decode_prealloc_queue
    kept, queue.held_rebootstrap_reqs = queue.held_rebootstrap_reqs, []
    for req in kept:
        if request.abort_all or req.rid.startswith(request.rid):
            scheduler.send_abort_output(_make_abort_req(req), req)
        else:
            queue.held_rebootstrap_reqs.append(req)


def outputs_of(req: Any) -> Any:
    """Its output so far, as its client gets it.

    While KV is computed once more, SGLang keeps the last token elsewhere; and an accepted draft may
    go on past where the request ends, which SGLang cuts off on the way to the client only.
    """
    put_by = getattr(req, "pd_rebootstrap_forced_output_id", None)
    if put_by is not None:
        return [*req.output_ids, put_by]
    end = getattr(req, "finished_len", None)
    return req.output_ids if end is None else req.output_ids[:end]


def row_count(pool: Any) -> int:
    """Rows of a request pool; a decode server has more than it runs, for what is on its way."""
    return int(pool.size) + int(getattr(pool, "pre_alloc_size", 0))


def room_of(req: Any) -> int | None:
    """The number under which both servers know a request."""
    room = getattr(req, "bootstrap_room", None)
    return None if room is None else int(room)


def do_without_events(*args: Any, **kwargs: Any) -> None:
    """BEFORE ``MooncakeKVManager.__init__``: without an accelerator, page numbers are copied at once.

    Its sender otherwise asks for pinned memory and a CUDA event for each chunk, which ends a prefill
    server on a CPU at its first request; see `docs/findings/sglang-pd-on-a-cpu.md` in the repository.
    """
    import torch
    from sglang.srt.disaggregation.mooncake.conn import MooncakeKVSender

    if not is_as_shipped() and not torch.accelerator.is_available():
        MooncakeKVSender.supports_host_tensor_indices = False
