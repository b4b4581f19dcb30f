"""``ScriptedTestCase``: scripts from unittest classes, as in the reports that started this project."""

from __future__ import annotations

import unittest
from collections.abc import Callable
from typing import Any, ClassVar

from scripted_registry import EngineConfig

from scripted_core.sessions.base import Session, make_config, start_session

SessionSource = Callable[[EngineConfig], Session]
_sources: list[SessionSource] = []


def lend_sessions(source: SessionSource) -> Callable[[], None]:
    """Let classes borrow engines from ``source`` instead of starting their own.

    Calling the result ends it.

    Whoever lends a session shuts it down. A test run does it, whose scripts use the same engines.
    """
    _sources.append(source)
    return lambda: _sources.remove(source)


class ScriptedTestCase(unittest.TestCase):
    """One engine for the class, started from ``ENGINE_KWARGS`` and reached as ``self.server``.

    ``BACKEND`` names the engine (default: ``$SCRIPTED_BACKEND``, else the embedded one, else the only
    one installed); it runs in its preferred mode. An engine that an earlier test left dirty is
    started anew. Under pytest, a class shares the engine of all scripts with the same arguments.
    """

    ENGINE_KWARGS: ClassVar[dict[str, Any]] = {}
    BACKEND: ClassVar[str | None] = None
    server: ClassVar[Session]

    @classmethod
    def setUpClass(cls) -> None:
        """Start the engine."""
        super().setUpClass()
        cls._take_server()

    def setUp(self) -> None:
        """Replace an engine that takes no more scripts."""
        super().setUp()
        if self.server.dirty is not None:
            self.server.shutdown()
            type(self)._take_server()

    @classmethod
    def _take_server(cls) -> None:
        config = make_config(cls.BACKEND, cls.ENGINE_KWARGS)
        if _sources:
            cls.server = _sources[-1](config)
        else:
            cls.server = start_session(config)
            cls.addClassCleanup(cls.server.shutdown)
