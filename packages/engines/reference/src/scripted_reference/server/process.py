"""What both processes do for themselves: end with their starter, end when told to, and print safely."""

from __future__ import annotations

import contextlib
import ctypes
import io
import os
import signal
import sys
from collections.abc import Callable
from types import FrameType
from typing import Final

_PR_SET_PDEATHSIG: Final = 1
STOP_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
"""Told to end: by a supervisor, by Ctrl-C, by a terminal that closes."""


def die_with(parent: int) -> None:
    """Be killed by the kernel when `parent` ends; end now when it already has."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it ended before that was in force
        sys.exit(1)


def on_stop_signal(handler: Callable[[], None]) -> None:
    """Call `handler` for each of `STOP_SIGNALS`."""

    def handle(number: int, frame: FrameType | None) -> None:
        handler()

    for number in STOP_SIGNALS:
        signal.signal(number, handle)


class ForgivingStream(io.TextIOBase):
    """Text to a file descriptor at once, dropped when it cannot be written.

    A full disk or a closed terminal costs log lines, not the engine.
    """

    def __init__(self, fd: int) -> None:
        super().__init__()
        self._fd = fd

    @property
    def encoding(self) -> str:  # type: ignore[override]
        """Always UTF-8."""
        return "utf-8"

    def fileno(self) -> int:
        """The file descriptor."""
        return self._fd

    def writable(self) -> bool:
        """It takes text, whatever becomes of it."""
        return True

    def isatty(self) -> bool:
        """Whether it is a terminal."""
        return os.isatty(self._fd)

    def write(self, text: str, /) -> int:
        """Write all of it, as far as the file takes it."""
        data = text.encode(errors="backslashreplace")
        with contextlib.suppress(OSError):
            while data:
                data = data[os.write(self._fd, data) :]
        return len(text)


def print_forgivingly() -> None:
    """Make stdout and stderr of this process forgiving."""
    sys.stdout = ForgivingStream(1)
    sys.stderr = ForgivingStream(2)


def complain(message: str) -> None:
    """Say on stderr why this process ends, in the form that `launch.explain` looks for."""
    print(f"{COMPLAINT} {message}", file=sys.stderr, flush=True)


COMPLAINT: Final = "scripted-reference: error:"
