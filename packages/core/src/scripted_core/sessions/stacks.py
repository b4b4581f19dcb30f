"""Stacks of engine processes that may be stuck: asked for by signal, read from the session's folder."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Mapping
from pathlib import Path

from scripted_core.sessions.processes import proc_state
from scripted_core.wire.address import STACKS_SIGNAL, SessionAddress


def stacks_of(address: SessionAddress, pid: int, *, timeout_s: float = 1.0) -> str:
    """Every thread's stack of a process that carries our hook, and the kernel's view of any."""
    path = address.stacks(pid)
    lines = [f"process {pid}: {proc_state(pid)}"]
    if path.exists():
        before = path.stat().st_size
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, STACKS_SIGNAL)
        text = _grown(path, before, timeout_s=timeout_s)
        lines.append(text or "(it did not write its stacks)")
    return "\n".join(lines)


def all_stacks(address: SessionAddress, pids: Mapping[int, str]) -> str:
    """The stacks of processes with their names."""
    return "\n\n".join(f"{name}, {stacks_of(address, pid)}" for pid, name in pids.items())


def _grown(path: Path, before: int, *, timeout_s: float) -> str:
    """What was appended to ``path``, once it has stopped growing; polled, since files have no event."""
    deadline = time.monotonic() + timeout_s
    size = before
    while time.monotonic() < deadline:
        now = path.stat().st_size
        if now > before and now == size:
            break
        size = now
        time.sleep(0.02)
    with open(path, encoding="utf-8", errors="replace") as file:
        file.seek(before)
        return file.read()
