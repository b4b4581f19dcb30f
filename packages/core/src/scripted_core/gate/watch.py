"""What the gate sees of the engine on its own machine: processes, progress, stacks."""

from __future__ import annotations

from collections.abc import Mapping

from scripted_core.sessions.processes import ProcessWatch
from scripted_core.sessions.stacks import all_stacks
from scripted_core.wire.address import SessionAddress
from scripted_core.wire.progress import ProgressReader


class LocalEngine:
    """Watches every process that announces itself in the folder of ``address``, and the driver."""

    def __init__(self, address: SessionAddress, *, driver_pid: int) -> None:
        self._address = address
        self._board = ProgressReader(address.progress)
        self._watch = ProcessWatch()
        self._watch.add(driver_pid, "scheduler")
        self.refresh()

    @property
    def fds(self) -> tuple[int, ...]:
        """What becomes readable when a process ends."""
        return self._watch.fds

    def refresh(self, pids: Mapping[str, int] | None = None) -> None:
        """Watch those that have come since, and ``pids``."""
        for pid, role in self._address.announced().items():
            self._watch.add(pid, role)
        for role, pid in (pids or {}).items():
            self._watch.add(pid, role)

    def ended(self) -> str | None:
        """Which processes have ended, if any has."""
        ended = self._watch.ended()
        return ", ".join(f"{name} (pid {pid}) ended" for pid, name in ended) or None

    def progress(self) -> tuple[int, int, int]:
        """``(ticks, number, step)`` of the running script."""
        return self._board.read()

    def abandon(self, request_id: int) -> None:
        """Let the engine give up a script at its next iteration."""
        self._board.abandon(request_id)

    def stacks(self) -> str:
        """Every thread's stack of every process."""
        return all_stacks(self._address, self._watch.pids)

    def await_end(self, timeout_s: float) -> None:
        """Wait until all have ended."""
        self._watch.wait_all(timeout_s)
