"""A scheduler process as the front sees it: started, watched, ended."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec

_MODULE = "scripted_reference.server.scheduler_process"


class SchedulerChild:
    """A running scheduler process; of several pipeline stages, each has one.

    `pidfd` becomes readable when it ends.
    """

    def __init__(
        self, *, engine_kwargs: dict[str, Any], folder: Path, base_url: str, stage: int = 0
    ) -> None:
        self.stage = stage
        # -P: the current folder is the user's, and no place to import modules from.
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", _MODULE], stdin=subprocess.PIPE
        )
        self.pidfd = os.pidfd_open(self._process.pid)
        start = {
            "engine_kwargs": engine_kwargs,
            "folder": str(folder),
            "base_url": base_url,
            "parent": os.getpid(),
            "stage": stage,
        }
        stdin = self._process.stdin
        assert stdin is not None, "asked for with PIPE"
        try:
            with stdin:
                stdin.write(msgspec.json.encode(start))
        except BrokenPipeError:
            pass  # it ended already; `describe_end` says how

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    def describe_end(self) -> str:
        """How it ended."""
        code = self._process.wait()
        if code < 0:
            return f"was killed by {signal.Signals(-code).name}"
        return f"exited with code {code}"

    def stop(self, *, grace_s: float) -> None:
        """End it, politely first; returns when it has ended."""
        if self._process.poll() is None:
            self._process.terminate()
            if not select.select([self.pidfd], [], [], grace_s)[0]:
                self._process.kill()
            self._process.wait()
        os.close(self.pidfd)
