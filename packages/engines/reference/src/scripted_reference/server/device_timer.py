"""How long a forward keeps its device busy: CUDA events on a GPU, the forward's own clock on a CPU."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Protocol, TypeVar

from scripted_reference.server.own_time import OwnTime

_T = TypeVar("_T")


class DeviceTimer(Protocol):
    """Times forwards, and has the clock in which a share of time is told."""

    def now_ns(self) -> int:
        """The clock of the time of which forwards have a share."""
        ...

    def run(self, forward: Callable[[], _T]) -> tuple[_T, int]:
        """Run a forward, and return its result and the nanoseconds that the device was at it."""
        ...


class HostTimer:
    """A device that is the CPU: the time of the thread that computes, see `OwnTime`."""

    def __init__(self, *, clock_ns: Callable[[], int] | None = None) -> None:
        self._clock_ns = clock_ns or OwnTime()

    def now_ns(self) -> int:
        """The thread's own time."""
        return self._clock_ns()

    def run(self, forward: Callable[[], _T]) -> tuple[_T, int]:
        """The thread's own time in the call."""
        begun_ns = self._clock_ns()
        result = forward()
        return result, self._clock_ns() - begun_ns


class CudaTimer:
    """A GPU: from the first to the last thing that a forward gave it to do, as SGLang times it.

    The share is one of wall time, since a GPU that waits for a host without a CPU does wait.
    """

    def __init__(self, device: str) -> None:
        import torch

        self._stream = torch.cuda.current_stream(torch.device(device))
        self._begin = torch.cuda.Event(enable_timing=True)
        self._end = torch.cuda.Event(enable_timing=True)

    def now_ns(self) -> int:
        """Wall time."""
        return time.perf_counter_ns()

    def run(self, forward: Callable[[], _T]) -> tuple[_T, int]:
        """The time between two events in the stream."""
        self._begin.record(self._stream)
        result = forward()
        self._end.record(self._stream)
        self._end.synchronize()  # hardly a wait: the tokens have already come to the host
        return result, int(self._begin.elapsed_time(self._end) * 1e6)


def device_timer(device: str) -> DeviceTimer:
    """The timer of a device, `"cpu"` or `"cuda"`."""
    return HostTimer() if device == "cpu" else CudaTimer(device)
