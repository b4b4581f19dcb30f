"""What is done before this process dies of a signal: its engines ended, their folders removed.

An engine dies with its session's process in any case; a folder in the temporary directory does not.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import Final

_SIGNALS: Final = (signal.SIGTERM, signal.SIGHUP)


class LastActs:
    """Callables to be called on SIGTERM and SIGHUP, after which the process dies as it would have.

    Whoever has a handler of their own keeps it. Only the main thread may register handlers, so
    elsewhere nothing is done.
    """

    def __init__(self) -> None:
        self._acts: dict[object, Callable[[], None]] = {}

    def add(self, key: object, act: Callable[[], None]) -> None:
        """Call ``act`` before the process dies."""
        self._acts[key] = act
        if threading.current_thread() is threading.main_thread():
            for number in _SIGNALS:
                if signal.getsignal(number) is signal.SIG_DFL:
                    signal.signal(number, self._die)

    def remove(self, key: object) -> None:
        """Forget it; with the last one the signals are as they were."""
        self._acts.pop(key, None)
        if not self._acts and threading.current_thread() is threading.main_thread():
            for number in _SIGNALS:
                if signal.getsignal(number) == self._die:
                    signal.signal(number, signal.SIG_DFL)

    def _die(self, number: int, frame: FrameType | None) -> None:
        for act in self._acts.values():
            with contextlib.suppress(Exception):  # the others still have to be called
                act()
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)


LAST_ACTS: Final = LastActs()
"""Those of this process."""
