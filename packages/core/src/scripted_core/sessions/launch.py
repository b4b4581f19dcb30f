"""How a server engine is started, as ``scripted_make_engine`` describes it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

SESSION_FOLDER = "{session}"
"""Stands in ``argv`` and ``env`` for the session's private directory, known only at the start."""


@dataclass(frozen=True, kw_only=True)
class ServerMember:
    """One more server of an engine that consists of several, such as the prefill server of a pair.

    ``role`` is what it is called where its end is told of, and its process finds it in the environment
    variable ``SCRIPTED_MEMBER``. ``argv`` and ``env`` are as in :class:`ServerLaunch`.
    """

    role: str
    argv: tuple[str, ...]
    host: str
    port: int
    env: dict[str, str] = field(default_factory=dict)

    @property
    def base_url(self) -> str:
        """``http://host:port``."""
        return url_of(self.host, self.port)


@dataclass(frozen=True, kw_only=True)
class ServerLaunch:
    """A command that becomes an engine with an HTTP front.

    ``SESSION_FOLDER`` in an argument or in a value of ``env`` is replaced by the session's private
    directory. ``env`` is added to this process's environment. ``ready_path`` answers 200 once the
    engine takes requests, and not before: an engine that answers there but whose scheduler stays
    silent has lost our hooks. ``prepare`` is called with the session's
    private directory before the start, and may write files that ``argv`` names. ``explain`` turns
    the log of a failed start into the engine's own message, when it finds one. ``stop_grace_s`` is how
    long an engine may take to end by itself at shutdown; 0 ends it at once. ``leftovers`` names the
    files outside the session's directory that processes (pids) would leave behind if they were
    killed; it is asked while they live, and the files are deleted when they have ended. ``members``
    are further servers that the engine consists of, started with it: the engine is ready when its own
    front is, so that a router's ``ready_path`` has to answer for those behind it.
    """

    argv: tuple[str, ...]
    host: str
    port: int
    env: dict[str, str] = field(default_factory=dict)
    ready_path: str = "/health"
    start_timeout_s: float = 300.0
    stop_grace_s: float = 2.0
    prepare: Callable[[Path], None] | None = None
    explain: Callable[[str], str | None] | None = None
    leftovers: Callable[[Iterable[int]], Iterable[Path]] | None = None
    members: tuple[ServerMember, ...] = ()

    @property
    def base_url(self) -> str:
        """``http://host:port``."""
        return url_of(self.host, self.port)


def url_of(host: str, port: int) -> str:
    """``http://host:port``, with brackets around an IPv6 address."""
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
