"""The engines of a test run: one for each configuration, reused while it is sound."""

from __future__ import annotations

import contextlib
import hashlib
import os
import time
from dataclasses import dataclass

import pytest
from scripted_registry import EngineConfig, EngineMode

from scripted_core.errors import ConfigError
from scripted_core.sessions.attached import AttachTo
from scripted_core.sessions.base import Session, start_session
from scripted_core.sessions.http_server import ScriptedHttpServer

_MAX_IN_PROCESS = 8
ENV_XDIST_SERVERS = "SCRIPTED_XDIST_SERVERS"


@dataclass(frozen=True, kw_only=True)
class EngineOfTest:
    """The session that a test gets. `start_s`: how long it took to start, if it was for this test."""

    session: Session
    start_s: float | None


def group_name(config: EngineConfig) -> str:
    """What all tests of ``config`` have in common, the same in every process."""
    digest = hashlib.blake2b(repr(config.key).encode(), digest_size=4).hexdigest()
    return f"{config.engine}-{config.mode.value}-{digest}"


class EnginePool:
    """In-process engines side by side (the least recently used one goes), one live server."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._sessions: dict[tuple[EngineConfig | AttachTo, float | None], Session] = {}

    def get(
        self,
        config: EngineConfig,
        *,
        stall_timeout_s: float | None = None,
        item: pytest.Item | None = None,
    ) -> EngineOfTest:
        """A sound session for ``config``; a dirty one is replaced by a fresh one.

        The conftest files that ``item`` sees (without one: that all tests see) are told before a start.
        """
        key = (config, stall_timeout_s)
        start_s = None
        session = self._sessions.pop(key, None)
        if session is not None and session.dirty is not None:
            session.shutdown()
            session = None
        if session is None:
            began = time.monotonic()
            self._make_room(config.mode)
            hook = self._config.hook if item is None else item.ihook
            hook.pytest_scripted_configure_engine(config=self._config, engine_config=config)
            session = start_session(config, stall_timeout_s=stall_timeout_s)
            start_s = time.monotonic() - began
        self._sessions[key] = session
        return EngineOfTest(session=session, start_s=start_s)

    def attached(
        self, to: AttachTo, *, stall_timeout_s: float | None, seed: int
    ) -> ScriptedHttpServer:
        """The engine that somebody else has started; attached to anew when the session is dirty."""
        key = (to, stall_timeout_s)
        session = self._sessions.pop(key, None)
        if session is not None and session.dirty is not None:
            session.shutdown()
            session = None
        if session is None:
            workers = getattr(self._config, "workerinput", {}).get("workercount", 1)
            if workers > 1:
                raise ConfigError(
                    f"{workers} xdist workers cannot be attached to one engine: it takes one client "
                    "at a time",
                    hint="run with -n 0",
                )
            self._leave_servers()
            session = ScriptedHttpServer.attach_to(to, seed=seed, stall_timeout_s=stall_timeout_s)
        assert isinstance(session, ScriptedHttpServer), "what is attached to is a server"
        self._sessions[key] = session
        return session

    def _leave_servers(self) -> None:
        for key in [k for k, s in self._sessions.items() if s.config.mode is EngineMode.SERVER]:
            self._sessions.pop(key).shutdown()

    def _make_room(self, mode: EngineMode) -> None:
        if mode is EngineMode.SERVER:
            if hasattr(self._config, "workerinput") and not os.environ.get(ENV_XDIST_SERVERS):
                raise ConfigError(
                    "a server engine in an xdist worker would be one of several on this machine",
                    hint=f"run with -n 0, or set {ENV_XDIST_SERVERS}=1 if the machine can take it",
                )
            self._leave_servers()
        else:
            alike = [k for k, s in self._sessions.items() if s.config.mode is mode]
            for key in alike[: max(0, len(alike) - _MAX_IN_PROCESS + 1)]:
                self._sessions.pop(key).shutdown()

    def close(self) -> None:
        """Stop every engine, also after one that would not stop; the first error is raised."""
        with contextlib.ExitStack() as stack:
            while self._sessions:
                stack.callback(self._sessions.popitem()[1].shutdown)
