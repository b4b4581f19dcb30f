"""What a prefill and a decode server tell each other: msgspec structs, and the KV as raw bytes behind.

The prefill server listens on its bootstrap port; a decode server connects to the port that each request
names. Requests are named by their rooms, whose numbers the router has chosen.
"""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
from scripted_core.kv_watch import SentSlots

from scripted_reference.pd.rooms import FirstToken


class Ready(msgspec.Struct, frozen=True, tag=True):
    """To the prefill server: there is memory for the KV of this room."""

    room: int


class Taken(msgspec.Struct, frozen=True, tag=True):
    """To the prefill server: all of it has arrived."""

    room: int


class Ended(msgspec.Struct, frozen=True, tag=True):
    """To either: the request has ended here before all of its KV had arrived."""

    room: int
    message: str


class StartedOver(msgspec.Struct, frozen=True, tag=True):
    """To the decode server: what was computed is lost, everything will be sent again."""

    room: int
    attempt: int


class Chunk(msgspec.Struct, frozen=True, tag=True):
    """To the decode server: the KV of positions `start` up to `end`, whose bytes are the next frame.

    `dtype` and `shape` are of the array that the model's `KvStorage.read` returned. The last chunk of a
    prompt has its `first` output token. `watched` is what a watcher of the prefill server's KV knows of
    these slots, so that a watcher here can tell whether what has arrived is what was computed.
    """

    room: int
    attempt: int
    start: int
    end: int
    dtype: str
    shape: tuple[int, ...]
    first: FirstToken | None
    watched: SentSlots | None = None


ToPrefill = Ready | Taken | Ended
ToDecode = Chunk | StartedOver | Ended

_encoder = msgspec.msgpack.Encoder()
_prefill_decoder: msgspec.msgpack.Decoder[ToPrefill] = msgspec.msgpack.Decoder(ToPrefill)
_decode_decoder: msgspec.msgpack.Decoder[ToDecode] = msgspec.msgpack.Decoder(ToDecode)


def encode(message: ToPrefill | ToDecode) -> bytes:
    """One frame."""
    return _encoder.encode(message)


def decode_for_prefill(frame: bytes) -> ToPrefill:
    """The message in a frame from a decode server."""
    return _prefill_decoder.decode(frame)


def decode_for_decode(frame: bytes) -> ToDecode:
    """The message in a frame from a prefill server."""
    return _decode_decoder.decode(frame)


def contents_of(chunk: Chunk, data: bytes) -> npt.NDArray[Any]:
    """The KV in the frame behind a chunk; `ValueError` when it is not what the chunk says."""
    return np.frombuffer(data, dtype=np.dtype(chunk.dtype)).reshape(chunk.shape)
