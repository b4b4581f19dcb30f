"""Folders of sessions whose processes are gone, and engines whose session is gone."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from scripted_core.cli.doctor.findings import Area, Finding, Level
from scripted_core.cli.text import counted
from scripted_core.wire.address import ENV_WIRE

_PATTERN = "scripted-*"
_SHARED = ("/tmp", "/dev/shm")
"""Where sessions go when paths below the temporary folder would be too long."""
_OF_A_SESSION = frozenset({"wire", "oob", "engine.log"})
_YOUNG_S = 30.0
"""A session that has just begun may not listen yet."""
_NAMED = 5


@dataclass(frozen=True, kw_only=True)
class Leftover:
    """A dead session's folder; ``pids`` are engine processes that run on all the same."""

    folder: Path
    pids: tuple[int, ...]


def look_at_leftovers(*, clean: bool) -> Iterator[Finding]:
    """What dead sessions left behind; ``clean`` deletes it, but for what a process still uses."""
    found = find_leftovers()
    orphaned = [leftover for leftover in found if leftover.pids]
    dead = [leftover for leftover in found if not leftover.pids]
    for leftover in orphaned:
        pids = " ".join(map(str, leftover.pids))
        yield _finding(
            Level.WARN,
            f"the session of {leftover.folder} is gone, its engine runs on (pids {pids})",
            f"kill {pids}; then scripted doctor --clean",
        )
    if dead and clean:
        for leftover in dead:
            shutil.rmtree(leftover.folder, ignore_errors=True)
        yield _finding(Level.OK, f"deleted {_named(dead)}", None)
    elif dead:
        yield _finding(Level.WARN, f"dead sessions left {_named(dead)}", "scripted doctor --clean")
    elif not orphaned:
        yield _finding(Level.OK, "nothing is left of dead sessions", None)


def find_leftovers() -> list[Leftover]:
    """Folders of this user's sessions to whose socket nobody listens any more."""
    engines = _engine_pids()
    return [
        Leftover(folder=folder, pids=engines.get(str(folder), ()))
        for folder in _session_folders()
        if not _is_alive(folder)
    ]


def _session_folders() -> Iterator[Path]:
    parents = dict.fromkeys(Path(name) for name in (tempfile.gettempdir(), *_SHARED))
    for parent in parents:
        for folder in sorted(parent.glob(_PATTERN)):
            with contextlib.suppress(OSError):
                status = folder.lstat()
                if (
                    status.st_uid == os.getuid()
                    and folder.is_dir()
                    and not folder.is_symlink()
                    and _OF_A_SESSION & set(os.listdir(folder))
                ):
                    yield folder


def _is_alive(folder: Path) -> bool:
    """Whether somebody listens there; asking does no harm to a session that lives."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(str(folder / "wire"))
        except BlockingIOError:  # it listens, and its queue is full
            return True
        except (ConnectionRefusedError, FileNotFoundError):
            return time.time() - folder.stat().st_mtime < _YOUNG_S
        except OSError:  # not to be known: it is left alone
            return True
        return True


def _engine_pids() -> dict[str, tuple[int, ...]]:
    """Processes of this user by the session that they were started for."""
    found: dict[str, tuple[int, ...]] = {}
    prefix = f"{ENV_WIRE}=".encode()
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            variables = (entry / "environ").read_bytes().split(b"\0")
        except OSError:
            continue
        for variable in variables:
            if variable.startswith(prefix):
                folder = os.fsdecode(variable.removeprefix(prefix))
                found[folder] = (*found.get(folder, ()), int(entry.name))
    return found


def _named(leftovers: list[Leftover]) -> str:
    names = ", ".join(str(leftover.folder) for leftover in leftovers[:_NAMED])
    more = f" and {len(leftovers) - _NAMED} more" if len(leftovers) > _NAMED else ""
    return f"{counted(len(leftovers), 'folder')}: {names}{more}"


def _finding(level: Level, text: str, remedy: str | None) -> Finding:
    return Finding(area=Area.MACHINE, level=level, name="leftovers", text=text, remedy=remedy)
