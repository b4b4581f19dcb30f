"""Which processes listen on a port, from ``/proc``: an answer from a port says not whose it is."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

_LISTEN = "0A"
_TABLES = ("tcp", "tcp6")


def listens(pids: Iterable[int], *, port: int) -> bool:
    """Whether one of these processes listens on a TCP port of this machine."""
    wanted = {f"socket:[{inode}]" for inode in _inodes(port)}
    return bool(wanted) and any(not wanted.isdisjoint(_sockets(pid)) for pid in pids)


def _inodes(port: int) -> set[str]:
    found = set()
    for table in _TABLES:
        try:
            lines = Path(f"/proc/net/{table}").read_text().splitlines()[1:]
        except OSError:
            continue
        for line in lines:
            _, local, _, state, *rest = line.split()
            if state == _LISTEN and int(local.rpartition(":")[2], 16) == port:
                found.add(rest[5])
    return found


def _sockets(pid: int) -> set[str]:
    found: set[str] = set()
    try:
        fds = os.listdir(f"/proc/{pid}/fd")
    except OSError:
        return found
    for fd in fds:
        try:
            found.add(os.readlink(f"/proc/{pid}/fd/{fd}"))
        except OSError:
            continue
    return found
