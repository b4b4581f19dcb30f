"""Rooms: what both engines of a pair know of one request, as SGLang's bootstrap rooms.

The decode engine opens a room when a request arrives, and makes it ready when it has the memory that
the KV goes to. Only then the prefill engine begins. KV arrives chunk by chunk, in any order; the room
is complete when every position of the prompt and the first output token are there.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from scripted_reference.models.base import TokenLogprobs


class RoomState(Enum):
    """How far a room is."""

    OPEN = auto()
    READY = auto()
    COMPLETE = auto()
    FAILED = auto()


class FirstToken(NamedTuple):
    """What travels beside the KV: the token that the prompt ends in, and log probabilities."""

    token: int
    input_logprobs: tuple[TokenLogprobs, ...] = ()
    output_logprobs: tuple[TokenLogprobs, ...] = ()


@dataclass(eq=False, slots=True)
class Room:
    """One request between the engines.

    Attributes:
        number: tells it from an earlier room of the same rid.
        prompt_len: positions that have to arrive.
        attempt: goes up when the prefill engine starts over; chunks of an earlier attempt are stale.
        sent_len: positions that were sent in this attempt.
        has_sent_all: whether the last chunk of this attempt was sent.
        arrived: `bool[prompt_len]`, the positions that have arrived.
        first: the first output token, once it has arrived.
        message: why it failed.
    """

    rid: str
    number: int
    prompt_len: int
    state: RoomState = RoomState.OPEN
    attempt: int = 0
    sent_len: int = 0
    has_sent_all: bool = False
    first: FirstToken | None = None
    message: str = ""
    arrived: npt.NDArray[np.bool_] = field(init=False)

    def __post_init__(self) -> None:
        self.arrived = np.zeros(self.prompt_len, dtype=np.bool_)

    def start_over(self) -> None:
        """The prefill engine lost what it had computed: everything is sent again."""
        self.attempt += 1
        self.sent_len = 0
        self.has_sent_all = False
        self.first = None
        self.arrived[:] = False

    def receive(self, start: int, end: int, first: FirstToken | None) -> None:
        """Note what has arrived."""
        self.arrived[start:end] = True
        if first is not None:
            self.first = first
        if self.first is not None and self.arrived.all():
            self.state = RoomState.COMPLETE

    def fail(self, message: str) -> None:
        """Give up; both engines abort the request when they see it."""
        self.state = RoomState.FAILED
        self.message = message


class Rooms:
    """The open rooms by rid."""

    def __init__(self) -> None:
        self._rooms: dict[str, Room] = {}
        self._numbers = 0

    def __iter__(self) -> Iterator[Room]:
        return iter(list(self._rooms.values()))

    def __contains__(self, rid: str) -> bool:
        return rid in self._rooms

    def open(self, rid: str, *, prompt_len: int, number: int | None = None) -> Room:
        """Open a room for a request that has just arrived; a router has given it its `number`."""
        self._numbers += 1
        room = Room(rid, self._numbers if number is None else number, prompt_len)
        self._rooms[rid] = room
        return room

    def get(self, rid: str) -> Room | None:
        """Return the room of a request."""
        return self._rooms.get(rid)

    def close(self, rid: str) -> None:
        """Both engines are done with the request: what still arrives for it is refused."""
        del self._rooms[rid]
