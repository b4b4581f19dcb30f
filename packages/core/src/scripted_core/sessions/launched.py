"""A server engine that the session starts itself: its wire, its processes, its start and end."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import zmq

from scripted_core.errors import EngineStartError, ScriptedError
from scripted_core.logs import get_logger
from scripted_core.sessions.launch import ServerLaunch
from scripted_core.sessions.listeners import listens
from scripted_core.sessions.processes import group_members
from scripted_core.sessions.server_process import ServerProcess
from scripted_core.sessions.startup import SilenceWatch, await_http
from scripted_core.wire.address import SessionAddress, create_address
from scripted_core.wire.messages import HookReady, Message, Shutdown
from scripted_core.wire.progress import ProgressReader
from scripted_core.wire.transport import Channel

WATCH_INTERVAL_S = 0.25
_log = get_logger("scripted.session")


class LaunchedEngine:
    """Death is seen through a pidfd of every process, work and stalls on the progress board."""

    def __init__(
        self,
        launch: ServerLaunch,
        *,
        engine: str,
        transport: Callable[[SessionAddress], Channel],
    ) -> None:
        self._launch = launch
        self._engine = engine
        self._address = create_address()
        self._channel = transport(self._address)
        self._progress = ProgressReader(self._address.progress)
        try:
            if launch.prepare is not None:
                launch.prepare(self._address.log.parent)
            self._process = ServerProcess(launch=launch, address=self._address, engine=engine)
        except BaseException:
            self._channel.close()
            self._address.remove()
            raise

    @property
    def base_url(self) -> str:
        """As it was told to serve."""
        return self._launch.base_url

    @property
    def member_urls(self) -> dict[str, str]:
        """Where the servers are that it consists of, by role."""
        return {member.role: member.base_url for member in self._launch.members}

    @property
    def pids(self) -> dict[int, str]:
        """Every process that is watched."""
        return self._process.watch.pids

    @property
    def main_pid(self) -> int:
        """The process that was started; the engine's process group has its number."""
        return self._process.pid

    @property
    def log_path(self) -> Path:
        """What the engine prints to; it goes with the session."""
        return self._address.log

    def log_text(self) -> str:
        """Everything that the engine has printed."""
        return self._process.log_text()

    def log_tail(self) -> str:
        """The last lines that the engine printed."""
        return self._process.log_tail()

    def accept(self, ready: HookReady) -> None:
        """Watch the processes that the engine side knows of."""
        for name, pid in ready.pids.items():
            self._process.watch.add(pid, name)

    def await_ready(self, *, hello: Callable[[float], bool], poll: Callable[[], object]) -> None:
        """Wait until the engine side has said hello and the front answers.

        ``hello`` waits so many seconds for a message and says whether it has come, or raises what is
        wrong; so does ``poll``, which does not wait.
        """
        deadline = time.monotonic() + self._launch.start_timeout_s
        silence = SilenceWatch(self._launch)
        self._process.refresh()
        while not hello(WATCH_INTERVAL_S):
            silence.check(log=self._process.log_text)
            self._process.refresh()
            if time.monotonic() > deadline:
                raise EngineStartError(
                    f"engine {self._engine!r} was not ready within "
                    f"{self._launch.start_timeout_s:g} s\n\nlog tail:\n{self.log_tail()}",
                )
        await_http(
            self._launch,
            deadline=deadline,
            poll=poll,
            log_tail=self.log_tail,
            is_ours=lambda: listens(group_members(self._process.pid), port=self._launch.port),
        )
        self._process.refresh()
        # Now, since nothing can be asked about a process that is killed later.
        self._process.note_leftovers()

    def pollables(self) -> tuple[Any, ...]:
        """The wire and a pidfd of every process."""
        return (*self._channel.pollables(), *self._process.watch.fds)

    def send(self, message: Message) -> None:
        """Send to the driver rank."""
        # An engine that dies lets go of the wire before its process has ended: the next look at that
        # says who ended and how.
        with contextlib.suppress(zmq.Again):
            self._channel.send(message)

    def receive(self) -> Message | None:
        """What the driver rank says, and what any rank reports."""
        return self._channel.receive()

    def ended(self) -> str | None:
        """Who ended and how."""
        ended = self._process.watch.ended()
        return self._process.describe_ends(ended) if ended else None

    def progress(self) -> tuple[int, int]:
        """As the engine last wrote it."""
        ticks, _, step = self._progress.read()
        return ticks, step

    def steps_of(self, request_id: int) -> int | None:
        """As the engine last wrote it, which outlives the engine."""
        _, running, step = self._progress.read()
        return step if running == request_id else None

    def all_stacks(self) -> str:
        """The stacks of every watched process."""
        return self._process.all_stacks()

    def explain(self) -> str | None:
        """What the launch makes of the log."""
        explain = self._launch.explain
        return explain(self._process.log_text()) if explain is not None else None

    def stop(self, *, politely: bool) -> None:
        """End every process and remove the session's directory."""
        try:
            if politely:
                try:
                    self._channel.send(Shutdown())
                except (zmq.ZMQError, ScriptedError):
                    _log.debug("the engine side was already gone at shutdown")
            self._process.stop()
        finally:
            self._channel.close()
            if not os.environ.get("SCRIPTED_KEEP_LOGS"):
                self._address.remove()
