"""SIGTERM and a closed terminal end the program as Ctrl-C does: by way of every ``finally``."""

from __future__ import annotations

import os
import signal
import threading
from types import FrameType
from typing import Any

from scripted_core.collecting import is_collecting

_ENDING = (signal.SIGTERM, signal.SIGHUP)
_SOON_S = 0.013


class Ended(KeyboardInterrupt):
    """Somebody wants the program to end. No script gets hold of it, as of a Ctrl-C."""


class EndingSignals:
    """While it is entered, the first of these signals raises :class:`Ended` in the main thread.

    ``received`` is that signal afterwards. A later one is passed over: the program is ending. One that
    was ignored already (``nohup``) stays ignored.
    """

    def __init__(self) -> None:
        self.received: signal.Signals | None = None
        self._previous: dict[signal.Signals, Any] = {}

    def __enter__(self) -> EndingSignals:
        if threading.current_thread() is threading.main_thread():
            for one in _ENDING:
                if signal.getsignal(one) is not signal.SIG_IGN:
                    self._previous[one] = signal.signal(one, self._on_signal)
        return self

    def __exit__(self, *_: object) -> None:
        for one, handler in self._previous.items():
            signal.signal(one, handler)

    def _on_signal(self, signum: int, frame: FrameType | None) -> None:
        if self.received is not None:
            return
        if is_collecting(frame):
            again = threading.Timer(_SOON_S, os.kill, (os.getpid(), signum))
            again.daemon = True
            again.start()
        else:
            self.received = signal.Signals(signum)
            raise Ended
