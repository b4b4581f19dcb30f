"""Interrupts this thread when an in-process script makes no progress for too long."""

from __future__ import annotations

import ctypes
import signal
import sys
import threading
import traceback
from collections.abc import Callable
from types import FrameType
from typing import Any

from scripted_core.errors import ScriptStalled

# A real-time signal of our own: SIGALRM belongs to pytest-timeout and others.
_SIGNAL = signal.SIGRTMIN + 6
_HINT = "each iteration of the script has to reach its next yield; bound the loop that does not"


class StallGuard:
    """While it is entered, ``progress()`` has to change every ``timeout_s`` seconds.

    If it does not, :class:`ScriptStalled` with every thread's stack is raised in the thread that
    entered: by a signal in the main thread, which also interrupts blocking calls, elsewhere as an
    asynchronous exception at the next bytecode.
    """

    def __init__(self, progress: Callable[[], int], *, timeout_s: float) -> None:
        self._progress = progress
        self._timeout_s = timeout_s
        self._done = threading.Event()
        self._thread: threading.Thread | None = None
        self._target = 0
        self._in_main = False
        self._previous: Any = None
        self._report = ""
        self.fired = False

    def __enter__(self) -> StallGuard:
        self._target = threading.get_ident()
        self._in_main = threading.current_thread() is threading.main_thread()
        if self._in_main:
            self._previous = signal.signal(_SIGNAL, self._on_signal)
        self._thread = threading.Thread(target=self._watch, name="scripted-stall", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        assert self._thread is not None
        self._thread.join()
        if self._in_main:
            signal.signal(_SIGNAL, self._previous)

    def _watch(self) -> None:
        seen = self._progress()
        while not self._done.wait(self._timeout_s):
            now = self._progress()
            if now == seen:
                self._fire()
                return
            seen = now

    def _fire(self) -> None:
        self.fired = True
        frames = sys._current_frames()
        parts = []
        for thread in threading.enumerate():
            frame = frames.get(thread.ident or 0)
            if frame is not None and thread is not threading.current_thread():
                stack = "".join(traceback.format_stack(frame))
                parts.append(f"thread {thread.name}:\n{stack}")
        self._report = f"no iteration ended within {self._timeout_s:g} s\n\n" + "\n".join(parts)
        if self._in_main:
            signal.pthread_kill(self._target, _SIGNAL)
        else:
            ctypes.pythonapi.PyThreadState_SetAsyncExc(
                ctypes.c_ulong(self._target), ctypes.py_object(ScriptStalled)
            )

    def _on_signal(self, signum: int, frame: FrameType | None) -> None:
        if not self._done.is_set():
            raise ScriptStalled(self._report, hint=_HINT)
