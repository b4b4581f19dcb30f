"""Frozen, engine-neutral views of what an engine is doing right now."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Any

import msgspec


class RequestStatus(StrEnum):
    """Where a request is in its life."""

    WAITING = "waiting"
    RUNNING = "running"
    FINISHED = "finished"
    ABORTED = "aborted"
    UNKNOWN = "unknown"


class ForwardMode(StrEnum):
    """What kind of forward a batch is."""

    EXTEND = "extend"
    DECODE = "decode"
    MIXED = "mixed"
    IDLE = "idle"
    OTHER = "other"


class FinishKind(StrEnum):
    """How a request ended."""

    STOP = "stop"
    LENGTH = "length"
    ABORT = "abort"
    REFUSED = "refused"
    """The engine never took it in: prompt over the context, bad parameter."""


class PauseMode(StrEnum):
    """What a pause does with the requests that are running."""

    RETRACT = "retract"
    IN_PLACE = "in_place"


class Side(StrEnum):
    """One engine of a prefill/decode pair."""

    PREFILL = "prefill"
    DECODE = "decode"


class PdStage(StrEnum):
    """Where a request of a prefill/decode pair is."""

    QUEUED = "queued"
    """The decode engine has no memory for it yet, or the prefill engine has not begun."""
    PREFILLING = "prefilling"
    """Part way through its prompt: chunks that are computed may already be on their way."""
    TRANSFERRING = "transferring"
    """Its prompt is computed, and not all of its KV has arrived."""
    TRANSFERRED = "transferred"
    """All of its KV has arrived; the decode engine has not taken it up."""
    DECODING = "decoding"
    RETRACTED = "retracted"
    """The decode engine took its memory away; its KV is kept outside the pool meanwhile."""
    GONE = "gone"
    """Ended, or never there."""


class ControlVia(StrEnum):
    """The way a control call takes into the engine."""

    INBOX = "inbox"
    HTTP = "http"


class FinishReason(msgspec.Struct, frozen=True):
    """Why a request ended, and the engine's own words for it."""

    kind: FinishKind
    message: str = ""


class RequestView(msgspec.Struct, frozen=True):
    """One live request: ``computed_tokens`` counts prompt tokens whose KV is in the pool."""

    rid: str
    status: RequestStatus
    prompt_len: int
    output_len: int
    computed_tokens: int
    kv_pages: int
    lock_refs: int
    is_chunking: bool
    priority: int | None = None


class ScriptedBatchRecord(msgspec.Struct, frozen=True):
    """One batch as it was handed to the model; the batch log is a list of these.

    ``forward_iter`` counts forwards from 1 within a script; ``step`` is the script's iteration in
    which the batch ran, from 1;
    ``rids`` are all requests of the batch, ``extend_rids`` those that prefill in it, and
    ``chunked_rids`` those of them whose prompt is not complete after it. ``chunked_rid`` is the
    convenience for engines that have at most one.
    """

    forward_iter: int
    mode: ForwardMode
    rids: tuple[str, ...]
    extend_rids: tuple[str, ...]
    chunked_rid: str | None = None
    chunked_rids: tuple[str, ...] = ()
    step: int = 0


class QueueView(msgspec.Struct, frozen=True):
    """The rids in the engine's queues, in the engine's order."""

    waiting: tuple[str, ...]
    running: tuple[str, ...]
    chunked: tuple[str, ...]


class KvChunkView(msgspec.Struct, frozen=True):
    """KV on its way from the prefill to the decode engine: positions ``start`` up to ``end``.

    ``is_last`` says that the prompt is complete with it; ``delay_iterations`` are left before it can
    be delivered. Numbers count from 1 and are never used twice within a script.
    """

    number: int
    rid: str
    start: int
    end: int
    is_last: bool
    delay_iterations: int = 0


class OwnerKind(StrEnum):
    """Who a KV page belongs to."""

    FREE = "free"
    REQUEST = "request"
    TREE = "tree"
    IN_FLIGHT = "in_flight"
    TRANSFER = "transfer"
    HELD = "held"
    RESERVED = "reserved"


class PageClaim(msgspec.Struct, frozen=True):
    """``owner`` (a rid, ``"tree"``, …) says that it has ``pages``: a 1-D integer array of page ids."""

    kind: OwnerKind
    owner: str
    pages: Any


class PoolAudit(msgspec.Struct, frozen=True):
    """Who owns each page of one pool at an iteration boundary.

    Pages are ``first_page`` … ``first_page + num_pages - 1``. ``claims`` are exclusive and have to
    partition them; ``references`` are block-table entries that name pages that somebody else owns
    (a shared prefix): each has to name a page that the prefix tree owns.
    """

    pool: str
    page_size: int
    first_page: int
    num_pages: int
    claims: tuple[PageClaim, ...]
    references: tuple[PageClaim, ...] = ()


class RowAudit(msgspec.Struct, frozen=True):
    """Who owns each row of the request pool: ``free`` and ``held`` ids, and one per request."""

    first_row: int
    num_rows: int
    free: Sequence[int]
    held: Sequence[int]
    by_request: Mapping[str, int]


class Audit(msgspec.Struct, frozen=True):
    """Everything the invariants are computed from, taken at one iteration boundary."""

    pools: tuple[PoolAudit, ...]
    rows: RowAudit | None
    lock_refs: Sequence[int]
    """Lock ref of every prefix-tree node but the root."""
    held_locks: int
    """Locks that exhausters hold."""
    is_idle: bool
    """No request is anywhere in the engine."""
