"""Interrupts this thread when an in-process script makes no progress for too long."""

from __future__ import annotations

import ctypes
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from types import FrameType
from typing import Any

from scripted_core.collecting import is_collecting

# A real-time signal of our own: SIGALRM belongs to pytest-timeout and others.
_SIGNAL = signal.SIGRTMIN + 6
_SOON_S = 0.013
"""After the first interrupt it is looked so often whether that one could be raised."""


class StallInterrupt(BaseException):
    """Cuts a stalled iteration off; no ``except Exception`` of a script gets hold of it."""


class StallGuard:
    """While it is entered, ``progress()`` has to change every ``timeout_s`` seconds.

    If it does not, :class:`StallInterrupt` is raised in the thread that entered: by a signal in the
    main thread, which also interrupts blocking calls, elsewhere as an asynchronous exception at the
    next bytecode; and again after each further ``timeout_s`` without progress. ``report`` then
    holds every thread's stack as it was at the first.
    """

    def __init__(self, progress: Callable[[], int], *, timeout_s: float) -> None:
        self._progress = progress
        self._timeout_s = timeout_s
        self._done = threading.Event()
        self._thread: threading.Thread | None = None
        self._target = 0
        self._in_main = False
        self._previous: Any = None
        self._put_off = False
        self.report = ""

    def __enter__(self) -> StallGuard:
        self._target = threading.get_ident()
        self._in_main = threading.current_thread() is threading.main_thread()
        if self._in_main:
            self._previous = signal.signal(_SIGNAL, self._on_signal)
        self._thread = threading.Thread(target=self._watch, name="scripted-stall", daemon=True)
        try:
            self._thread.start()
        except BaseException:  # a Ctrl-C meanwhile: nobody else would end the watch
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self._done.set()
            assert self._thread is not None
            if self._thread.is_alive():
                self._thread.join()
        finally:
            if self._in_main:
                signal.signal(_SIGNAL, self._previous)
            else:
                # One that was sent at the very end must not come up later, somewhere else.
                _raise_in(self._target, None)

    def _watch(self) -> None:
        seen, fired = self._progress(), 0.0
        wait_s = self._timeout_s
        while not self._done.wait(wait_s):
            now = self._progress()
            is_due = self._put_off or time.monotonic() - fired >= self._timeout_s
            wait_s = self._timeout_s
            if now == seen:
                if is_due:
                    self._put_off = False
                    self._fire()
                    fired = time.monotonic()
                wait_s = min(wait_s, _SOON_S)
            seen = now

    def _fire(self) -> None:
        self.report = self.report or self._stacks()
        if self._done.is_set():
            return
        if self._in_main:
            signal.pthread_kill(self._target, _SIGNAL)
        else:
            _raise_in(self._target, StallInterrupt)

    def _stacks(self) -> str:
        frames = sys._current_frames()
        parts = []
        for thread in threading.enumerate():
            frame = frames.get(thread.ident or 0)
            if frame is not None and thread is not threading.current_thread():
                stack = "".join(traceback.format_stack(frame))
                parts.append(f"thread {thread.name}:\n{stack}")
        return f"no iteration ended within {self._timeout_s:g} s\n\n" + "\n".join(parts)

    def _on_signal(self, signum: int, frame: FrameType | None) -> None:
        if self._done.is_set():
            return
        if is_collecting(frame):
            # What is raised there is only printed. An endless loop that takes more and more memory
            # is there most of the time, and would never be cut off.
            self._put_off = True
            return
        raise StallInterrupt


def _raise_in(thread_id: int, exception: type[BaseException] | None) -> None:
    """Raise ``exception`` in another thread at its next bytecode; ``None`` takes that back."""
    ctypes.pythonapi.PyThreadState_SetAsyncExc(
        ctypes.c_ulong(thread_id), None if exception is None else ctypes.py_object(exception)
    )
