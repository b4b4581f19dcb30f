"""Time as a thread has it: what it spends waiting for a CPU is not its own."""

from __future__ import annotations

import contextlib
import os
import time
from typing import Final

_SCHEDSTAT: Final = "/proc/thread-self/schedstat"
_FIELDS_BYTES: Final = 96


class OwnTime:
    """A monotonic clock that stands still while its thread is ready to run and gets no CPU.

    It goes on while the thread computes, and while it sleeps or waits for something. So a share of
    this time says the same on a busy machine as on an idle one, which a share of wall time does not.
    Linux counts the wait in nanoseconds (the second field of schedstat); where it does not, this is
    the wall clock. Belongs to the thread that makes it.
    """

    def __init__(self) -> None:
        self._fd: int | None = None
        with contextlib.suppress(OSError):
            self._fd = os.open(_SCHEDSTAT, os.O_RDONLY | os.O_CLOEXEC)
            if len(self._fields()) < 2:  # a kernel without the figures
                self.close()

    def __call__(self) -> int:
        """Now, in nanoseconds."""
        if self._fd is None:
            return time.perf_counter_ns()
        waited_ns = int(self._fields()[1])
        while True:
            now_ns = time.perf_counter_ns()
            before_ns, waited_ns = waited_ns, int(self._fields()[1])
            if waited_ns == before_ns:  # it has not been put off between the two readings
                return now_ns - waited_ns

    def close(self) -> None:
        """Let go of the file; from now on it is the wall clock."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None

    def __del__(self) -> None:
        self.close()

    def _fields(self) -> list[bytes]:
        assert self._fd is not None, "asked for with a file only"
        return os.pread(self._fd, _FIELDS_BYTES, 0).split()
