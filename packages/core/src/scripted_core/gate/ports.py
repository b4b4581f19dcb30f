"""What a gate has on its two sides, as protocols."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from scripted_core.wire.attach_messages import ToClient, ToGate


class ClientPort(Protocol):
    """Where clients come in: a :class:`~scripted_core.wire.listener.Listener`."""

    def send(self, client: bytes, message: ToClient) -> bool:
        """Send to one client; False when it is not there any more."""
        ...

    def receive(self) -> tuple[bytes, ToGate] | None:
        """The next message and whose it is; ``None`` when there is none."""
        ...

    def somebody_left(self) -> bool:
        """Whether a connection has ended since this was last asked."""
        ...

    def pollables(self) -> tuple[Any, ...]:
        """What to poll for input."""
        ...


class EngineWatch(Protocol):
    """What can be known of the engine without its help."""

    @property
    def fds(self) -> tuple[int, ...]:
        """What becomes readable when a process of it ends."""
        ...

    def refresh(self, pids: Mapping[str, int] | None = None) -> None:
        """Watch the processes that have come since, and ``pids``."""
        ...

    def ended(self) -> str | None:
        """What has ended, if anything has."""
        ...

    def progress(self) -> tuple[int, int, int]:
        """``(ticks, number, step)`` of the running script."""
        ...

    def abandon(self, request_id: int) -> None:
        """Let the engine give up a script at its next iteration."""
        ...

    def stacks(self) -> str:
        """What every process is doing."""
        ...
