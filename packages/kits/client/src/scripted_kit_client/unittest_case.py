"""`CustomTestCase`, and what the kits' mixins have in common."""

from __future__ import annotations

import contextlib
import functools
import subprocess
import unittest
from typing import TYPE_CHECKING, Any, ClassVar

from scripted_core.errors import CapabilityMissing

from scripted_kit_client.launching import kill_process_tree
from scripted_kit_client.target import DEFAULT_TIMEOUT_S, Api, Target

if TYPE_CHECKING:
    from scripted_kit_client.kit import Kit
    from scripted_kit_client.report import KitReport


class CustomTestCase(unittest.TestCase):
    """A test class with a server: what `setUpClass` leaves in `cls.process` ends with the class.

    That also holds when `setUpClass` fails, after which unittest calls no `tearDownClass`.
    """

    base_url: str
    process: ClassVar[subprocess.Popen[str] | None] = None

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Let a failing `setUpClass` clean up."""
        super().__init_subclass__(**kwargs)
        own = cls.__dict__.get("setUpClass")
        if isinstance(own, classmethod):
            cls.setUpClass = classmethod(_cleaning_up(own.__func__))  # type: ignore[assignment]

    @classmethod
    def tearDownClass(cls) -> None:
        """End the server."""
        if cls.process is not None:
            kill_process_tree(cls.process.pid)
            cls.process = None
        super().tearDownClass()


class KitMixin:
    """Beside `CustomTestCase`: runs kits against `self.base_url`."""

    base_url: str
    kit_api_key: str | None = None
    kit_timeout_s: float = DEFAULT_TIMEOUT_S
    kit_api: Api = Api.AUTO

    def kit_server(self) -> Target:
        """The server under test."""
        return Target(
            url=self.base_url,
            api_key=self.kit_api_key,
            timeout_s=self.kit_timeout_s,
            api=self.kit_api,
        )

    def run_kit(self, kit: Kit[Any], options: object) -> KitReport:
        """Run a kit, print its figures, then fail by it; a missing capability skips the test."""
        from scripted_kit_client.running import run_and_judge

        try:
            return run_and_judge(kit, self.kit_server(), options)
        except CapabilityMissing as missing:
            raise unittest.SkipTest(str(missing)) from missing


def _cleaning_up(set_up: Any) -> Any:
    @functools.wraps(set_up)
    def guarded(cls: type[CustomTestCase]) -> None:
        try:
            set_up(cls)
        except BaseException:
            with contextlib.suppress(Exception):
                cls.tearDownClass()
            raise

    return guarded
