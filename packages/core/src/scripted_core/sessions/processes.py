"""Processes of a server engine: who they are, whether they live, and their end."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import time
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Final

_ALONG_S: Final = 0.1


def descendants(root: int) -> dict[int, str]:
    """Pids and command names of all living descendants of ``root``, from ``/proc``."""
    found: dict[int, str] = {}
    frontier = [root]
    while frontier:
        pid = frontier.pop()
        for task in _children_files(pid):
            try:
                children = [int(text) for text in task.read_text().split()]
            except OSError:
                continue
            for child in children:
                if child not in found:
                    found[child] = command_name(child)
                    frontier.append(child)
    return found


def _children_files(pid: int) -> list[Path]:
    try:
        return [task / "children" for task in Path(f"/proc/{pid}/task").iterdir()]
    except OSError:
        return []


def group_members(group: int) -> dict[int, str]:
    """Pids and command names of all processes of a process group, orphans among them."""
    found: dict[int, str] = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                # The command, in parentheses, may hold anything; state, parent and group follow.
                fields = (folder / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            if int(fields[2]) == group:
                found[int(folder.name)] = command_name(int(folder.name))
    return found


def command_name(pid: int) -> str:
    """What the process calls itself (its title, where it set one)."""
    try:
        command = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace")
    except OSError:
        return "?"
    program, *arguments = command.rstrip("\0").split("\0")
    # The program without its folder, unless the process has set a title, which is one word here.
    line = " ".join([program.rpartition("/")[2] if arguments else program, *arguments])
    return line.strip()[:60] or "?"


def cleans_up(pid: int) -> bool:
    """Whether it is Python's resource tracker.

    It ends by itself when those it serves have ended, and deletes what they left behind (named
    semaphores for one): killing it leaves litter.
    """
    try:
        return b"multiprocessing.resource_tracker" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False


def still_running(pids: Iterable[int]) -> dict[int, str]:
    """Those of ``pids`` that have not ended, with their states; a zombie has."""
    states = {pid: proc_state(pid) for pid in pids}
    return {pid: state for pid, state in states.items() if state != "gone" and state[0] not in "ZX"}


def proc_state(pid: int) -> str:
    """The kernel's word for what the process is doing, such as ``T (stopped)``."""
    try:
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("State:"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return "gone"


class ProcessWatch:
    """Pidfds of processes: each becomes readable the moment its process ends."""

    def __init__(self) -> None:
        self._fds: dict[int, tuple[int, str]] = {}
        self._gone: dict[int, str] = {}

    def add(self, pid: int, name: str) -> None:
        """Watch one more process, or name a known one anew; one that is gone counts as ended."""
        for known_fd, (known, _) in self._fds.items():
            if known == pid:
                self._fds[known_fd] = (pid, name)
                return
        try:
            fd = os.pidfd_open(pid)
        except ProcessLookupError:
            self._gone[pid] = name
            return
        self._fds[fd] = (pid, name)

    @property
    def fds(self) -> tuple[int, ...]:
        """What to poll for input."""
        return tuple(self._fds)

    @property
    def pids(self) -> dict[int, str]:
        """Watched pids and their names."""
        return {pid: name for pid, name in self._fds.values()}

    def ended(self) -> list[tuple[int, str]]:
        """Watched processes that have ended.

        One that ends often takes others along, and may be seen a moment after them: when there is
        one, the others get that moment.
        """
        if not self._ended_now():
            return []
        self.wait_all(_ALONG_S)
        return self._ended_now()

    def _ended_now(self) -> list[tuple[int, str]]:
        poller = select.poll()
        for fd in self._fds:
            poller.register(fd, select.POLLIN)
        return [*self._gone.items(), *(self._fds[fd] for fd, _ in poller.poll(0))]

    def wait_all(self, timeout_s: float) -> bool:
        """Wait until every watched process has ended; False when the time is up first."""
        deadline = time.monotonic() + timeout_s
        waiting = set(self._fds)
        while waiting:
            left = deadline - time.monotonic()
            if left <= 0:
                return False
            poller = select.poll()
            for fd in waiting:
                poller.register(fd, select.POLLIN)
            waiting -= {fd for fd, _ in poller.poll(left * 1000)}
        return True

    def kill_all(self, *, spare: Collection[int] = ()) -> None:
        """SIGKILL through the pidfds: a pid that was reused is never hit."""
        for fd, (pid, _) in self._fds.items():
            if pid in spare:
                continue
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(fd, signal.SIGKILL)

    def close(self) -> None:
        """Close all pidfds."""
        for fd in self._fds:
            os.close(fd)
        self._fds.clear()
        self._gone.clear()
