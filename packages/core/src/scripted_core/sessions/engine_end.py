"""What a session needs of a server engine, whoever has started it."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

from scripted_core.wire.messages import HookReady, Message


class EngineEnd(Protocol):
    """A server engine that a session has launched, or is attached to."""

    @property
    def base_url(self) -> str:
        """``http://host:port`` of its HTTP front, as seen from here."""
        ...

    @property
    def member_urls(self) -> dict[str, str]:
        """URLs of the servers that it consists of, by role; empty where it is one."""
        ...

    @property
    def pids(self) -> dict[int, str]:
        """Its processes, on whatever machine they are."""
        ...

    @property
    def main_pid(self) -> int | None:
        """The process that was started, if this side started it."""
        ...

    @property
    def log_path(self) -> Path | None:
        """Where it prints to, if this side knows."""
        ...

    def log_text(self) -> str:
        """Everything that it has printed, as far as this side has it."""
        ...

    def log_tail(self) -> str:
        """The last lines of it, or where else to look."""
        ...

    def accept(self, ready: HookReady) -> None:
        """The engine side has said hello."""
        ...

    def pollables(self) -> tuple[Any, ...]:
        """Sockets and file descriptors that become readable when there is something to look at."""
        ...

    def send(self, message: Message) -> None:
        """Send to the engine side."""
        ...

    def receive(self) -> Message | None:
        """The next message, or ``None``."""
        ...

    def ended(self) -> str | None:
        """What has ended, and how, if anything has."""
        ...

    def progress(self) -> tuple[int, int]:
        """Signs of life so far, and the step of the running script."""
        ...

    def steps_of(self, request_id: int) -> int | None:
        """Iterations that a script has completed; ``None`` where that is not known exactly."""
        ...

    def all_stacks(self) -> str:
        """What every process is doing."""
        ...

    def explain(self) -> str | None:
        """The engine's own message about a failed start, if there is one."""
        ...

    def stop(self, *, politely: bool) -> None:
        """Let go of it; what was started here ends, with all that belongs to it."""
        ...
