"""Requests, their ends, and batches."""

from __future__ import annotations

from typing import Any

from scripted_core.views import FinishKind, FinishReason, ForwardMode

from scripted_sglang._compat.as_shipped import is_as_shipped

_KINDS = {"stop": FinishKind.STOP, "length": FinishKind.LENGTH, "abort": FinishKind.ABORT}
_MODES = {
    "EXTEND": ForwardMode.EXTEND,
    "DECODE": ForwardMode.DECODE,
    "MIXED": ForwardMode.MIXED,
    "IDLE": ForwardMode.IDLE,
}
_OUR_RID = "scripted-flush"


def kv_of(req: Any) -> Any:
    """Where a request keeps its row and its KV lengths: ``req.kv``, up to 0.5.15 the request."""
    return getattr(req, "kv", req)


def row_of(req: Any) -> int | None:
    """The row of a request, or ``None`` while it has no memory."""
    kv = kv_of(req)
    row = kv.req_pool_idx
    return None if row is None or row < 0 or not kv.kv_allocated_len else int(row)


def finish_reason_of(req: Any) -> FinishReason:
    """A finished request's reason in neutral words."""
    reason = req.finished_reason
    if reason is None:
        return FinishReason(kind=FinishKind.ABORT, message="Aborted")
    return finish_reason_from(reason.to_json())


def finish_reason_from(json: Any) -> FinishReason:
    """A reason from SGLang's JSON form."""
    kind = _KINDS.get(str(json.get("type")), FinishKind.STOP)
    return FinishReason(kind=kind, message=str(json.get("message") or ""))


def rids_in(message: Any) -> tuple[str, ...]:
    """The rids of the requests in an inbox message, empty for a message that starts none."""
    name = type(message).__name__
    if name in ("TokenizedGenerateReqInput", "TokenizedEmbeddingReqInput"):
        return (str(message.rid),)
    if name in ("BatchTokenizedGenerateReqInput", "BatchTokenizedEmbeddingReqInput"):
        return tuple(str(one.rid) for one in message)
    return ()


def is_abort_notice(output: Any) -> bool:
    """Whether what a scheduler sends to the front tells it that a request has ended."""
    return type(output).__name__ == "AbortReq"


def is_our_flush(message: Any) -> bool:
    """Whether a message, which may be anything, is a flush that ``our_flush`` has made."""
    return type(message).__name__ == "FlushCacheReqInput" and message.rid == _OUR_RID


def our_flush() -> Any:
    """A flush that can be told from one that SGLang's front waits for; it has no use for a rid."""
    from sglang.srt.managers import io_struct

    if is_as_shipped():
        return io_struct.FlushCacheReqInput()
    return io_struct.FlushCacheReqInput(rid=_OUR_RID)


def forward_mode_of(batch: Any) -> ForwardMode:
    """A batch's mode in neutral words."""
    return _MODES.get(batch.forward_mode.name, ForwardMode.OTHER)


def decoding_rids(batch: Any) -> frozenset[str]:
    """Of a mixed batch, the requests that decode in it."""
    return frozenset(req.rid for req in (getattr(batch, "decoding_reqs", None) or ()))


def abort_finish() -> Any:
    """What ends a request as aborted once a result of it is processed."""
    from sglang.srt.managers.schedule_batch import FINISH_ABORT

    return FINISH_ABORT()
