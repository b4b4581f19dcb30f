"""Faults that only a server can have: they are in its processes and its replies, in no engine part.

No script finds them, since a script counts iterations and reads tokens; the kits do.
"""

from __future__ import annotations

from enum import StrEnum


class ServerFault(StrEnum):
    """What `inject_fault` can name besides the faults of the catalogue, for a server."""

    STALL = "stall-every-iteration"
    """The scheduler sleeps 1 ms in every iteration: a host that is in the device's way."""
    KV_SLOT = "kv-slot-corrupted"
    """Before a request's first decode one KV slot of its prompt gets the values of another one."""
    BATCH_REPLIES = "batch-replies-shuffled"
    """The replies to a list of prompts come in another order than the prompts."""
    DRAFT = "draft-never-accepted"
    """Every guess of a draft model is another token than the one that it means."""
    STREAM_CHUNK = "stream-chunk-dropped"
    """The third event of every stream is never sent."""
