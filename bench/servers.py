"""Servers side by side: what holds one still while another is measured, and what it has computed.

Two servers on one machine disturb each other even when neither has work, for an idle SGLang
scheduler spins. So all but one are stopped (SIGSTOP), and they can be measured in turn, in intervals
as short as one likes: whatever else the machine does disturbs all of them alike.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

from scripted_core.sessions.processes import descendants

_NANOSECOND_S = 1e-9
_DEADLINE_S = 10.0


def hold_still(group: int) -> None:
    """Stop every process of a process group."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(group, signal.SIGSTOP)


def let_go_on(group: int) -> None:
    """Let the processes of a group run again."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(group, signal.SIGCONT)


@contextlib.contextmanager
def running(group: int) -> Iterator[None]:
    """Let a group that is held still run inside."""
    let_go_on(group)
    try:
        yield
    finally:
        hold_still(group)


def kill_group(group: int) -> None:
    """End every process of a group."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(group, signal.SIGKILL)


def end_orderly() -> None:
    """Let SIGTERM end this process as Ctrl-C does, so that the servers it holds still end with it."""

    def end(number: int, frame: object) -> None:
        raise SystemExit(128 + number)

    signal.signal(signal.SIGTERM, end)


def group_of(leader: int) -> list[int]:
    """The processes whose process group is that of ``leader``."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError, ValueError):
            if int(_stat(int(folder.name))[2]) == leader:
                found.append(int(folder.name))
    return found


def scheduler_of(leader: int) -> int:
    """The scheduler process in the group of ``leader``, by the title that SGLang gives it."""
    end = time.monotonic() + _DEADLINE_S
    while time.monotonic() < end:
        for pid in group_of(leader):
            with contextlib.suppress(OSError):
                title = (Path("/proc") / str(pid) / "cmdline").read_bytes()
                if title.startswith(b"sglang::scheduler"):
                    return pid
        time.sleep(0.1)  # the title of another process: nothing to wait on
    raise RuntimeError(f"there is no scheduler in the process group {leader}")


def family_cpu_s(pid: int) -> float:
    """Processor time so far of a process, all that came of it, and those of them that have ended."""
    ticks = 0
    for one in (pid, *descendants(pid)):
        with contextlib.suppress(OSError):
            # User and system time, of the process itself and of its children that were waited for.
            ticks += sum(map(int, _stat(one)[11:15]))
    return ticks / os.sysconf("SC_CLK_TCK")


def _stat(pid: int) -> list[str]:
    """The fields of ``/proc/PID/stat`` from the third on."""
    # The name of the program, the second, may hold spaces and brackets; what follows it does not.
    return (Path("/proc") / str(pid) / "stat").read_text().rpartition(")")[2].split()


def cpu_s(pid: int) -> float:
    """Processor time of all threads of a process so far, in seconds."""
    spent = 0
    for thread in (Path("/proc") / str(pid) / "task").iterdir():
        with contextlib.suppress(OSError):
            spent += int((thread / "schedstat").read_text().split()[0])
    return spent * _NANOSECOND_S
