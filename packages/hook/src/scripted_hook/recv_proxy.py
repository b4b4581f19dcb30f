"""``ScriptedTokenizerRecvProxy``: the drain of a scheduler's inbox, with a look ahead.

The engine drains through :meth:`recv_pyobj` as it would drain its socket. A script that waits for
the arrival of what it has sent reads ahead into a buffer; control operations join the same buffer,
so that the engine sees everything in the order of the script's calls.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable
from typing import Any, Protocol

import zmq
from scripted_core.errors import ReplyTimeout


class Underlying(Protocol):
    """The engine's own receiving socket, or a wrapper that decodes its frames."""

    def recv_pyobj(self, flags: int = 0) -> Any:
        """The next message; raises ``zmq.Again`` when there is none and ``flags`` has NOBLOCK."""
        ...


class ScriptedTokenizerRecvProxy:
    """Buffers what it has read ahead; ``poll_on`` is the socket to wait on (default: underlying).

    ``parks(message)`` says that a message is foreign and has to wait for the end of the script.
    """

    def __init__(
        self,
        *,
        underlying: Underlying,
        poll_on: Any | None = None,
        parks: Callable[[Any], bool] | None = None,
    ) -> None:
        self._underlying = underlying
        self._poll_on = underlying if poll_on is None else poll_on
        self._parks = parks
        self._holding = False
        self._buffer: deque[Any] = deque()
        self._parked: deque[Any] = deque()

    def __len__(self) -> int:
        return len(self._buffer)

    @property
    def buffered(self) -> tuple[Any, ...]:
        """What has been read ahead or injected, in order."""
        return tuple(self._buffer)

    @property
    def parked(self) -> int:
        """Foreign messages that wait for the end of the script."""
        return len(self._parked)

    def recv_pyobj(self, flags: int = 0) -> Any:
        """The next message in order; with ``zmq.NOBLOCK`` raises ``zmq.Again`` when there is none."""
        while True:
            if self._buffer:
                return self._buffer.popleft()
            message = self._underlying.recv_pyobj(flags)
            if self._is_parked(message):
                continue
            return message

    def merge(self, pulled: list[Any]) -> list[Any]:
        """Everything that is due: what is buffered, then what the engine has just pulled itself."""
        due = [*self._buffer, *(message for message in pulled if not self._is_parked(message))]
        self._buffer.clear()
        return due

    def inject(self, message: Any) -> None:
        """Append a message of ours, behind everything that has arrived so far."""
        self.read_ahead()
        self._buffer.append(message)

    def wait_until_arrived(
        self,
        predicate: Callable[[Any], bool],
        *,
        timeout_s: float,
        description: str,
        wake_fd: int | None = None,
        cancelled: Callable[[], bool] | None = None,
    ) -> Any | None:
        """Wait until a message that fits ``predicate`` is in the buffer, and return it.

        ``cancelled`` is asked after each look at the inbox, which input on ``wake_fd`` also brings
        about, and ends the wait with ``None``.
        Raises ``ReplyTimeout`` that names ``description`` after ``timeout_s`` seconds.
        """
        for message in self._buffer:
            if predicate(message):
                return message
        deadline = time.monotonic() + timeout_s
        poller = zmq.Poller()
        poller.register(self._poll_on, zmq.POLLIN)
        if wake_fd is not None:
            poller.register(wake_fd, zmq.POLLIN)
        while True:
            for message in self.read_ahead():
                if predicate(message):
                    return message
            if cancelled is not None and cancelled():
                return None
            left_s = deadline - time.monotonic()
            if left_s <= 0:
                raise ReplyTimeout(
                    f"{description} did not arrive within {timeout_s:g} s",
                    hint="the engine's front may be closed (an HTTP pause closes it) or stuck",
                )
            poller.poll(math.ceil(left_s * 1000))

    def hold(self) -> None:
        """Park foreign messages from now on."""
        self._holding = True

    def release(self) -> None:
        """Let parked messages in, behind what is buffered, in their order of arrival."""
        self._holding = False
        self._buffer.extend(self._parked)
        self._parked.clear()

    def reconsider(self) -> list[Any]:
        """Take what was parked, and is not foreign after all, into the buffer; that of it, in order.

        What a request belongs to may become known a moment after the request.
        """
        asked, self._parked = self._parked, deque()
        ours = [message for message in asked if not self._is_parked(message)]
        self._buffer.extend(ours)
        return ours

    def read_ahead(self) -> list[Any]:
        """Take what has arrived into the buffer; that of it which is not parked, in order."""
        fresh: list[Any] = []
        try:
            while True:
                message = self._underlying.recv_pyobj(zmq.NOBLOCK)
                if not self._is_parked(message):
                    fresh.append(message)
        except zmq.Again:
            return fresh
        finally:
            self._buffer.extend(fresh)  # also when a later message cannot be decoded

    def _is_parked(self, message: Any) -> bool:
        if self._holding and self._parks is not None and self._parks(message):
            self._parked.append(message)
            return True
        return False
