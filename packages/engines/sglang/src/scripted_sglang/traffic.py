"""What the two servers of a pair have sent each other, counted, so that an iteration sees all of it.

SGLang's servers talk over sockets of their own, which threads of each write and read. A scheduler that
is held until everything that was sent before has been read there runs the same iterations each time,
whatever the machine has to do beside it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, Final

import structlog

_log = structlog.get_logger("scripted.sglang")
_GIVEN_UP_AFTER_S: Final = 10.0
"""A message to a server that has just lost its connection never arrives: no longer wait for it."""


class Traffic:
    """The counts of one process; its methods are hooks, called by threads of SGLang's."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._sent = 0
        self._read = 0
        self._busy = 0
        self._chunk = threading.local()
        self._held: list[Callable[[], Any]] | None = None

    # -- sending -------------------------------------------------------------------------------

    def after_send(self, result: Any, *args: Any, **kwargs: Any) -> None:
        """AFTER a message has gone out."""
        with self._changed:
            self._sent += 1

    def after_bootstrap_message(self, result: Any, *args: Any, **kwargs: Any) -> None:
        """AFTER ``_send_bootstrap_message``, which says whether the message has gone out."""
        if result:
            self.after_send(result)

    def after_abort_notification(self, result: Any, receiver: Any, *args: Any, **kw: Any) -> None:
        """AFTER ``_send_abort_notification``, one message to each rank of the prefill server."""
        for _ in receiver.bootstrap_infos:
            self.after_send(result)

    def put_chunk(self, original: Callable[..., Any], queue: Any, item: Any) -> Any:
        """AROUND ``FastQueue.put``: a chunk waits for a thread that sends it."""
        with self._changed:
            self._busy += 1
        return original(queue, item)

    def get_chunk(self, original: Callable[..., Any], queue: Any) -> Any:
        """AROUND ``FastQueue.get``: the thread that asks for a chunk has done the one before."""
        if getattr(self._chunk, "in_hand", False):
            self._chunk.in_hand = False
            with self._changed:
                self._busy -= 1
                self._changed.notify_all()
        item = original(queue)
        self._chunk.in_hand = True
        return item

    def sent(self) -> int:
        """Messages that have gone out; chunks that are being sent are waited for."""
        with self._changed:
            if not self._changed.wait_for(lambda: not self._busy, timeout=_GIVEN_UP_AFTER_S):
                _log.warning("KV is still being sent", chunks=self._busy)
            return self._sent

    # -- receiving -----------------------------------------------------------------------------

    def counted_receive(self, original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """AROUND ``_make_worker_recv``: asked for a message, the thread has seen to the one before."""
        receive = original(*args, **kwargs)
        in_hand = False

        def counted() -> Any:
            nonlocal in_hand
            if in_hand:
                with self._changed:
                    self._read += 1
                    self._changed.notify_all()
            message = receive()
            in_hand = message is not None
            return message

        return counted

    def await_read(self, count: int) -> None:
        """Wait until so many messages of the other server have been read."""
        with self._changed:
            if not self._changed.wait_for(lambda: self._read >= count, timeout=_GIVEN_UP_AFTER_S):
                _log.warning(
                    "a message of the other server has not come", read=self._read, sent=count
                )

    # -- holding -------------------------------------------------------------------------------

    @property
    def is_held(self) -> bool:
        """Whether the ends of transfers are kept from the decode server."""
        return self._held is not None

    def hold(self) -> None:
        """Keep them from now on."""
        if self._held is None:
            self._held = []

    def resume(self) -> None:
        """Tell it of those that were kept, in their order."""
        with self._changed:
            kept, self._held = self._held, None
        for tell in kept or ():
            tell()

    def prefill_status(
        self, original: Callable[..., Any], manager: Any, *args: Any, **kwargs: Any
    ) -> Any:
        """AROUND ``apply_prefill_status``: a transfer has ended; the decode server may not know."""
        with self._changed:
            if self._held is not None:
                self._held.append(lambda: original(manager, *args, **kwargs))
                return None
        return original(manager, *args, **kwargs)
