"""What both processes do for themselves: end with their starter, end when told to, and print safely."""

from __future__ import annotations

import contextlib
import ctypes
import io
import os
import signal
import sys
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Final

_PR_SET_PDEATHSIG: Final = 1
STOP_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
"""Told to end: by a supervisor, by Ctrl-C, by a terminal that closes."""

_GROUP_SIGNALS: Final = (signal.SIGINT, signal.SIGHUP)


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


class StopFlag:
    """Notes that a stop signal has come while nothing could be done about it."""

    def __init__(self) -> None:
        self.is_set = False

    def install(self) -> None:
        """From now on each of `STOP_SIGNALS` sets it."""
        on_stop_signal(self._set)

    def _set(self) -> None:
        self.is_set = True


@contextlib.contextmanager
def stop_signals_blocked() -> Iterator[None]:
    """Hold back what a terminal sends to a whole group; a process started in the block does so, too.

    It takes them after `take_stop_signals`. SIGTERM, which is for one process, still ends it at once.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _GROUP_SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def take_stop_signals() -> None:
    """Take the signals that the starter of this process had blocked for it, also past ones."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _GROUP_SIGNALS)


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
ENV_ROUTER: Final = "SCRIPTED_REFERENCE_ROUTER"
"""URL of the router in front of the pair that this server belongs to in a session."""
