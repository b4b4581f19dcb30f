"""The processes of one server engine: start, log, stacks on request, and an end that is an end."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import IO, Final

from scripted_core.errors import EngineStartError
from scripted_core.sessions import _child_guard
from scripted_core.sessions.launch import SESSION_FOLDER, ServerLaunch
from scripted_core.sessions.processes import (
    ProcessWatch,
    cleans_up,
    descendants,
    group_members,
)
from scripted_core.sessions.stacks import all_stacks
from scripted_core.sessions.termination import LAST_ACTS
from scripted_core.wire.address import ENV_MEMBER, SessionAddress

_LOG_TAIL_BYTES = 6000
_CLEANER_GRACE_S = 1.0
_MAIN: Final = "main"


class ServerProcess:
    """One started engine, as a process group of its own; each further member has one, too."""

    def __init__(self, *, launch: ServerLaunch, address: SessionAddress, engine: str) -> None:
        self._launch = launch
        self._address = address
        self.watch = ProcessWatch()
        self._leftovers: set[Path] = set()
        self._processes: list[subprocess.Popen[bytes]] = []
        starts = [
            *((member.argv, member.env, member.role) for member in launch.members),
            (launch.argv, launch.env, _MAIN),
        ]
        LAST_ACTS.add(self, self._abandon)
        # One file for all of them, to be appended to, so that they write behind each other.
        with open(address.log, "ab") as log:
            try:
                for argv, env, role in starts:
                    started = self._start(argv, env, role=role, engine=engine, log=log)
                    self._processes.append(started)
                    self.watch.add(started.pid, role if role == _MAIN else f"{role} server")
            except BaseException as error:
                if self._processes:
                    self.stop()  # those that run already are nobody's otherwise
                LAST_ACTS.remove(self)
                if isinstance(error, OSError):
                    raise EngineStartError(f"cannot start {argv[0]}: {error}") from error
                raise

    def _start(
        self, argv: Sequence[str], env: Mapping[str, str], *, role: str, engine: str, log: IO[bytes]
    ) -> subprocess.Popen[bytes]:
        address = self._address
        ours = {
            name: value.replace(SESSION_FOLDER, address.directory) for name, value in env.items()
        }
        return subprocess.Popen(
            [
                *(sys.executable, _child_guard.__file__, str(os.getpid())),
                *(arg.replace(SESSION_FOLDER, address.directory) for arg in argv),
            ],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env={
                **os.environ,
                **ours,
                **address.env(engine=engine),
                **({} if role == _MAIN else {ENV_MEMBER: role}),
            },
            start_new_session=True,
        )

    @property
    def pid(self) -> int:
        """The main process."""
        return self._process.pid

    @property
    def _process(self) -> subprocess.Popen[bytes]:
        return self._processes[-1]

    def refresh(self) -> None:
        """Watch the processes of the engine that have announced themselves since.

        Not every child is one: engines also run short-lived helpers.
        """
        for pid, role in self._address.announced().items():
            self.watch.add(pid, role)

    def note_leftovers(self) -> None:
        """Remember what the processes that live now would leave behind if they were killed."""
        if self._launch.leftovers is not None:
            self._leftovers.update(self._launch.leftovers(tuple(self.watch.pids)))

    def _watch_all(self) -> None:
        known = self.watch.pids
        for process in self._processes:
            for pid, name in descendants(process.pid).items():
                if pid not in known:
                    self.watch.add(pid, name)

    def log_text(self) -> str:
        """Everything that the engine printed."""
        try:
            return self._address.log.read_text(errors="replace")
        except OSError:
            return ""

    def log_tail(self) -> str:
        """The last lines that the engine printed."""
        text = self.log_text()
        tail = text[-_LOG_TAIL_BYTES:]
        return tail if len(tail) == len(text) else "…" + tail.partition("\n")[2]

    def describe_end(self, pid: int) -> str:
        """How a process of ours ended, as far as it can be known."""
        process = next((one for one in self._processes if one.pid == pid), None)
        code = None if process is None else process.poll()
        if code is None:
            return "ended"
        if code < 0:
            with contextlib.suppress(ValueError):
                return f"was killed by {signal.Signals(-code).name}"
            return f"was killed by signal {-code}"
        return f"exited with code {code}"

    def describe_ends(self, ended: Iterable[tuple[int, str]]) -> str:
        """Who ended and how."""
        return ", ".join(f"{name} (pid {pid}) {self.describe_end(pid)}" for pid, name in ended)

    def all_stacks(self) -> str:
        """The stacks of every watched process."""
        return all_stacks(self._address, self.watch.pids)

    def stop(self) -> None:
        """End every process of the engine, politely first; returns when all are gone."""
        LAST_ACTS.remove(self)
        self._watch_all()
        self.note_leftovers()
        if self._launch.stop_grace_s:
            for process in self._processes:
                with contextlib.suppress(ProcessLookupError):
                    process.terminate()
        self.watch.wait_all(self._launch.stop_grace_s)
        # Children of a process that ended on its own are nobody's descendants any more, but still
        # in its group. The group's number is not given away before wait() below.
        for process in self._processes:
            for pid, name in group_members(process.pid).items():
                if pid not in self.watch.pids:
                    self.watch.add(pid, name)
        self.kill()
        for process in self._processes:
            process.wait()
        self.watch.close()
        for path in self._leftovers:
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)

    def _abandon(self) -> None:
        """This process is about to die: end the engine, and remove the session's directory."""
        self.kill()
        self._address.remove()

    def kill(self) -> None:
        """SIGKILL for every process of the engine; returns when all are gone."""
        self._watch_all()
        cleaners = {pid for pid in self.watch.pids if cleans_up(pid)}
        self.watch.kill_all(spare=cleaners)
        if cleaners:
            self.watch.wait_all(_CLEANER_GRACE_S)
        for process in self._processes:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)
        self.watch.wait_all(5.0)
