"""``ScriptedTestCase``: scripts from unittest classes, as in the reports that started this project."""

from __future__ import annotations

import unittest
from typing import Any, ClassVar

from scripted_core.sessions.base import Session, make_config, start_session


class ScriptedTestCase(unittest.TestCase):
    """One engine for the class, started from ``ENGINE_KWARGS`` and reached as ``self.server``.

    ``BACKEND`` names the engine (default: ``$SCRIPTED_BACKEND``, else the embedded one, else the only
    one installed); it runs in its preferred mode. An engine that an earlier test left dirty is
    started anew.
    """

    ENGINE_KWARGS: ClassVar[dict[str, Any]] = {}
    BACKEND: ClassVar[str | None] = None
    server: ClassVar[Session]

    @classmethod
    def setUpClass(cls) -> None:
        """Start the engine."""
        super().setUpClass()
        cls.server = start_session(make_config(cls.BACKEND, cls.ENGINE_KWARGS))
        cls.addClassCleanup(lambda: cls.server.shutdown())

    def setUp(self) -> None:
        """Replace an engine that takes no more scripts."""
        super().setUp()
        if self.server.dirty is not None:
            cls = type(self)
            cls.server.shutdown()
            cls.server = start_session(make_config(cls.BACKEND, cls.ENGINE_KWARGS))
