"""What hooks are given: the parts of higher packages' objects that a plugin may rely on.

The registry is at the bottom of the import graph, so these are protocols: the session, batch log
and audit of the packages above satisfy them. An implementation may offer more than its protocol.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, TypeVar

F = TypeVar("F", bound=Callable[..., Any])


class ScriptRun(Protocol):
    """One execution of one script in one session."""

    @property
    def script(self) -> str:
        """The script as `path::qualname`, or its dotted name."""

    @property
    def session_id(self) -> str:
        """The session it runs in."""

    @property
    def backend(self) -> str:
        """The name of the engine."""

    @property
    def seed(self) -> int:
        """The session seed."""


class ReadyLike(Protocol):
    """What an engine reports at the handshake."""

    @property
    def protocol_version(self) -> int:
        """The version of the wire that it speaks."""

    @property
    def engine(self) -> str:
        """The name of the engine."""

    @property
    def engine_version(self) -> str:
        """The version of the engine."""

    @property
    def capabilities(self) -> Sequence[str]:
        """The capabilities that it declares."""

    @property
    def pids(self) -> Mapping[str, int]:
        """The process id of every engine process, by the name of its role."""


class BatchRecordLike(Protocol):
    """One batch that the engine ran."""

    @property
    def forward_iter(self) -> int:
        """The number of the forward pass."""

    @property
    def mode(self) -> str:
        """The forward mode, in the engine's own words."""

    @property
    def rids(self) -> Sequence[str]:
        """Every request in the batch."""

    @property
    def extend_rids(self) -> Sequence[str]:
        """The requests of which prompt tokens were computed."""

    @property
    def chunked_rids(self) -> Sequence[str]:
        """The requests that were mid-chunk; several on some engines."""

    @property
    def chunked_rid(self) -> str | None:
        """The one mid-chunk request of a single-chunk engine."""


class AuditLike(Protocol):
    """Who owned each page, row and lock ref at an iteration boundary."""

    @property
    def pools(self) -> Sequence[Any]:
        """One audit for each KV pool, with its name, its pages and who claims them."""

    @property
    def rows(self) -> Any | None:
        """Who owns each row of the request pool; `None` for an engine without one."""

    @property
    def lock_refs(self) -> Sequence[int]:
        """The lock ref of every prefix-tree node but the root."""

    @property
    def held_locks(self) -> int:
        """How many locks exhausters hold."""

    @property
    def is_idle(self) -> bool:
        """Whether no request is anywhere in the engine."""


class ContextLike(Protocol):
    """The context that a script drives the engine through."""

    @property
    def scheduler(self) -> Any:
        """The engine's own scheduler object."""

    @property
    def is_fully_idle(self) -> bool:
        """Whether nothing runs, waits or is in flight."""

    def engine_stats(self) -> Mapping[str, Any]:
        """Return the free and total figures of the pools."""


class CommandApp(Protocol):
    """The part of a `typer.Typer` that a plugin adds its commands to."""

    def command(self, name: str | None = None) -> Callable[[F], F]:
        """Return a decorator that makes a function a command."""

    def add_typer(self, typer_instance: Any, *, name: str | None = None) -> None:
        """Add a group of commands."""
