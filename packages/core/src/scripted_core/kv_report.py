"""What a watcher of an engine's KV has to say: plain figures and records, for a server to hand on."""

from __future__ import annotations

from enum import StrEnum
from typing import Final

import msgspec

KV_REPORT_PATH: Final = "/kv_canary"
"""Where a server answers with a ``KvStatus``; takes ``until``, ``after`` and ``timeout_s``."""


class KvUntil(StrEnum):
    """When a question about the KV is answered."""

    NOW = "now"
    """At once."""
    VIOLATION = "violation"
    """Once more violations were found than a number that is given."""
    IDLE = "idle"
    """Once the engine has nothing to do."""


class KvCount(msgspec.Struct, frozen=True):
    """How many violations there were of one kind: in a pool, for a reason, found by a launch."""

    pool: str
    reason: str
    launch: str
    total: int


class KvRecord(msgspec.Struct, frozen=True):
    """One violation: ``expected`` and ``found`` are tokens, positions or hashes, as the reason says.

    ``step`` counts the forwards of the pool's model; ``rid`` is empty when no request reads the slot.
    """

    step: int
    pool: str
    slot: int
    position: int
    reason: str
    expected: int
    found: int
    rid: str
    launch: str


class KvReport(msgspec.Struct, frozen=True, kw_only=True):
    """All of it since the start.

    Attributes:
        mode: what becomes of a violation.
        violations_total: also those that are not kept any more.
        counts: by pool, reason and launch, those with 0 included that there may be.
        last: the newest records, oldest first.
        verified_slots_total: slots that were verified.
        stopped: for each pool whose forwards are not watched any more, what was seen; empty when all is
            well.
    """

    mode: str
    violations_total: int
    counts: tuple[KvCount, ...]
    last: tuple[KvRecord, ...]
    verified_slots_total: int
    stopped: tuple[str, ...]


class KvStatus(msgspec.Struct, frozen=True, kw_only=True):
    """A report with what else is known at that moment.

    Attributes:
        is_idle: whether the engine had nothing to do, so that nothing more is found by itself.
        report: ``None`` where nobody watches, although the engine's arguments ask for it.
    """

    is_idle: bool
    report: KvReport | None


_status_decoder: msgspec.json.Decoder[KvStatus] = msgspec.json.Decoder(KvStatus)


def status_to_json(status: KvStatus) -> bytes:
    """The body of an answer."""
    return msgspec.json.encode(status)


def status_from_json(body: bytes) -> KvStatus:
    """The status in a body; ``ValueError`` for anything else."""
    return _status_decoder.decode(body)
