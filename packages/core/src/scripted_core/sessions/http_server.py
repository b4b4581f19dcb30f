"""``ScriptedHttpServer``: an engine in processes of its own, with its HTTP front."""

from __future__ import annotations

import itertools
import os
import select
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

import zmq
from scripted_registry import EngineConfig, EngineMode, get_plugin_manager

from scripted_core.errors import (
    EngineDied,
    EngineDirty,
    EngineError,
    EngineStartError,
    PluginContractError,
    ScriptedError,
    ScriptStalled,
)
from scripted_core.logs import get_logger
from scripted_core.scripts.reference import reference_of
from scripted_core.sessions.base import make_config, stall_timeout
from scripted_core.sessions.launch import ServerLaunch
from scripted_core.sessions.lifecycle import (
    Deadline,
    announced_run,
    announced_start,
    new_session_id,
    script_run,
)
from scripted_core.sessions.outcome import damage, raise_remote
from scripted_core.sessions.server_process import ServerProcess
from scripted_core.sessions.startup import SilenceWatch, await_http, check_hello
from scripted_core.trace import NOTHING_CHECKED, ChecksDone, StepListener, StepTrace
from scripted_core.wire.address import SessionAddress, create_address
from scripted_core.wire.messages import (
    HookReady,
    Message,
    OutOfBandError,
    RunScript,
    ScriptFailed,
    ScriptSucceeded,
    Shutdown,
    StepsEnded,
)
from scripted_core.wire.plain import plain_args, plain_kwargs
from scripted_core.wire.progress import ProgressReader
from scripted_core.wire.transport import Channel, TestSideChannel

_log = get_logger("scripted.session")
_WATCH_INTERVAL_S = 0.25


class ScriptedHttpServer:
    """A started server engine that takes scripts; a context manager that ends it.

    Every wait polls the wire *and* a pidfd of every engine process under one deadline, so that the
    death of any of them is seen at once. After a timeout, a stall or a death the server is dirty
    and refuses further scripts with the reason.
    """

    def __init__(
        self,
        *,
        config: EngineConfig,
        launch: ServerLaunch,
        stall_timeout_s: float,
        transport: Callable[[SessionAddress], Channel] = TestSideChannel,
    ) -> None:
        self.config = config
        self._launch = launch
        self._stall_timeout_s = stall_timeout_s
        self._dirty: str | None = None
        self._closed = False
        self._digest = ""
        self._trace: tuple[StepTrace, ...] = ()
        self._checks: ChecksDone = NOTHING_CHECKED
        self._request_ids = itertools.count(1)
        self._plugins = get_plugin_manager()
        self._address = create_address()
        self._id = new_session_id()
        self._channel: Channel = transport(self._address)
        self._progress = ProgressReader(self._address.progress)
        self._ready: HookReady | None = None
        try:
            if launch.prepare is not None:
                launch.prepare(self._address.log.parent)
            self._process = ServerProcess(
                launch=launch, address=self._address, engine=config.engine
            )
        except BaseException:
            self._channel.close()
            self._address.remove()
            raise

    @classmethod
    def start(
        cls,
        *,
        backend: str | None = None,
        seed: int = 0,
        stall_timeout_s: float | None = None,
        **engine_kwargs: Any,
    ) -> ScriptedHttpServer:
        """Start an engine and wait until it takes scripts.

        Keyword arguments are the engine's own server arguments. Raises ``EngineStartError`` with
        the engine's own message when it refuses them or ends, ``HandshakeError`` when it runs
        without our hooks.
        """
        config = make_config(backend, engine_kwargs, mode=EngineMode.SERVER, seed=seed)
        return cls.from_config(config, stall_timeout_s=stall_timeout_s)

    @classmethod
    def from_config(
        cls, config: EngineConfig, *, stall_timeout_s: float | None = None
    ) -> ScriptedHttpServer:
        """Start the engine that ``config`` describes."""
        plugins = get_plugin_manager()
        with announced_start(config):
            launch = plugins.make_engine(config)
            if not isinstance(launch, ServerLaunch):
                raise PluginContractError(
                    f"the plugin of engine {config.engine!r} made a {type(launch).__name__} for "
                    f"mode {config.mode.value!r}",
                    hint="its scripted_make_engine has to return a ServerLaunch for it",
                )
            server = cls(
                config=config,
                launch=launch,
                stall_timeout_s=stall_timeout(stall_timeout_s),
                transport=plugins.hook.scripted_make_transport(config=config) or TestSideChannel,
            )
            try:
                server._handshake()
                plugins.hook.scripted_engine_started(config=config, ready=server._ready)
            except BaseException:
                server._stop()
                raise
        return server

    # -- what it is ----------------------------------------------------------------------------

    @property
    def base_url(self) -> str:
        """``http://host:port`` of the engine's own HTTP front."""
        return self._launch.base_url

    @property
    def dirty(self) -> str | None:
        """Why it takes no more scripts."""
        return self._dirty

    @property
    def capabilities(self) -> frozenset[str]:
        """What the engine can do."""
        return frozenset(self._ready.capabilities if self._ready is not None else ())

    @property
    def pids(self) -> dict[int, str]:
        """Every process of the engine."""
        return self._process.watch.pids

    @property
    def main_pid(self) -> int:
        """The process that was started; the engine's process group has its number."""
        return self._process.pid

    @property
    def ready(self) -> HookReady | None:
        """What the engine side said at the handshake."""
        return self._ready

    @property
    def log_path(self) -> Path:
        """What the engine prints to; it goes with the session."""
        return self._address.log

    def log_text(self) -> str:
        """Everything that the engine has printed."""
        return self._process.log_text()

    @property
    def last_trace(self) -> tuple[StepTrace, ...]:
        """The latest script iteration by iteration, if it ran with ``want_trace``."""
        return self._trace

    @property
    def last_checks(self) -> ChecksDone:
        """What the runtime checked of the latest script."""
        return self._checks

    def event_digest(self) -> str:
        """Digest of everything that happened in the last successful script, in order."""
        return self._digest

    # -- scripts -------------------------------------------------------------------------------

    def execute_script(
        self,
        fn: Callable[..., Any],
        *,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
        timeout_s: float | None = None,
        check_invariants: bool = True,
        want_trace: bool = False,
        on_step: StepListener | None = None,
    ) -> None:
        """Reset the engine, then run ``fn(t, *args, **kwargs)`` in it to its end.

        ``on_step`` is told of iterations as the script runs, as far as it keeps up with them. A
        failed script raises ``ScriptFailed`` (an ``AssertionError``) with the engine side's traceback,
        and the server stays usable. ``ReplyTimeout`` after ``timeout_s`` seconds, ``ScriptStalled``
        without any progress, ``EngineDied`` when a process ends: each leaves the server dirty.
        """
        self._refuse_if_unusable()
        with announced_run(script_run(fn, session_id=self._id, config=self.config)):
            request = RunScript(
                request_id=next(self._request_ids),
                script=reference_of(fn),
                args=plain_args(args),
                kwargs=plain_kwargs(kwargs or {}),
                check_invariants=check_invariants,
                seed=self.config.seed,
                want_trace=want_trace,
                stream_steps=on_step is not None,
            )
            self._run(request, deadline=Deadline(timeout_s), on_step=on_step)

    def _run(self, request: RunScript, *, deadline: Deadline, on_step: StepListener | None) -> None:
        _log.debug("script", session=self._id, script=request.script.qualname)
        self._trace, self._checks = (), NOTHING_CHECKED
        try:
            self._raise_if_died()
            self._channel.send(request)
            reply = self._await_reply(request.request_id, deadline=deadline, on_step=on_step)
        except BaseException as error:
            if self._dirty is None:
                self._dirty = f"an earlier script was cut off ({type(error).__name__})"
            raise
        self._trace, self._checks = reply.trace, reply.checks
        if isinstance(reply, ScriptFailed):
            try:
                raise_remote(reply)
            except ScriptedError as error:
                self._dirty = damage(error)
                raise
        self._digest = reply.event_digest

    def _await_reply(
        self, request_id: int, *, deadline: Deadline, on_step: StepListener | None
    ) -> ScriptSucceeded | ScriptFailed:
        ticks, moved_at = self._progress.read()[0], time.monotonic()
        while True:
            message = self._next_message(_WATCH_INTERVAL_S)
            # A reply of an earlier script that was given up is stale: it is passed over.
            if isinstance(message, (ScriptSucceeded, ScriptFailed)):
                if message.request_id == request_id:
                    return message
                _log.warning("stale reply passed over", request_id=message.request_id)
            if isinstance(message, StepsEnded) and message.request_id == request_id and on_step:
                for ended in message.steps:
                    on_step(ended)
            now = time.monotonic()
            seen = self._progress.read()[0]
            if seen != ticks:
                ticks, moved_at = seen, now
            elif now - moved_at > self._stall_timeout_s:
                raise self._stalled(now - moved_at)
            if deadline.passed:
                step = self._progress.read()[2]
                raise deadline.error(f"it was at step {step}\n\n{self._process.all_stacks()}")

    def _stalled(self, quiet_s: float) -> ScriptStalled:
        step = self._progress.read()[2]
        return ScriptStalled(
            f"no iteration ended for {quiet_s:.1f} s (the last was step {step})\n\n"
            f"{self._process.all_stacks()}\n\nlog tail:\n{self._process.log_tail()}",
            hint="each iteration of the script has to reach its next yield; see the stacks",
        )

    def watch_over(self) -> NoReturn:
        """Wait until a process of the engine ends, and raise what it died of."""
        while True:
            self._next_message(3600.0)

    # -- waiting -------------------------------------------------------------------------------

    def _next_message(self, timeout_s: float) -> Message | None:
        """The next message, or ``None`` after ``timeout_s``; raises when a process ended."""
        poller = zmq.Poller()
        for socket in self._channel.pollables():
            poller.register(socket, zmq.POLLIN)
        for fd in self._process.watch.fds:
            poller.register(fd, select.POLLIN)
        poller.poll(int(timeout_s * 1000))
        message = self._channel.receive()
        if isinstance(message, OutOfBandError):
            raise self._died(message.text)
        if message is None:
            self._raise_if_died()
        return message

    def _raise_if_died(self) -> None:
        ended = self._process.watch.ended()
        if not ended:
            return
        # A rank that broke reports why before it ends, which says more than the exit.
        report = self._channel.receive()
        if isinstance(report, OutOfBandError):
            raise self._died(report.text)
        raise self._died(self._process.describe_ends(ended))

    def _died(self, what: str) -> EngineError:
        kind = EngineDied if self._ready is not None else EngineStartError
        log = self._process.log_text()
        explain = self._launch.explain if self._ready is None else None
        explained = explain(log) if explain is not None else None
        said = f"\n\n{explained}" if explained else ""
        error = kind(
            f"engine {self.config.engine!r}: {what}{said}\n\nlog tail:\n{self._process.log_tail()}"
        )
        self._dirty = what.splitlines()[0]
        _log.info("engine died", session=self._id, engine=self.config.engine, what=self._dirty)
        self._plugins.hook.scripted_engine_died(config=self.config, error=error)
        return error

    def _handshake(self) -> None:
        deadline = time.monotonic() + self._launch.start_timeout_s
        silence = SilenceWatch(self._launch)
        while self._ready is None:
            if time.monotonic() > deadline:
                raise EngineStartError(
                    f"engine {self.config.engine!r} was not ready within "
                    f"{self._launch.start_timeout_s:g} s\n\nlog tail:\n{self._process.log_tail()}",
                )
            self._process.refresh()
            message = self._next_message(_WATCH_INTERVAL_S)
            if isinstance(message, HookReady):
                self._accept(message)
            elif message is None:
                silence.check(log=self._process.log_text)
        await_http(
            self._launch,
            deadline=deadline,
            poll=lambda: self._next_message(0.0),
            log_tail=self._process.log_tail,
        )
        self._process.refresh()
        # Now, since nothing can be asked about a process that is killed later.
        self._process.note_leftovers()

    def _accept(self, ready: HookReady) -> None:
        check_hello(ready, engine=self.config.engine)
        for name, pid in ready.pids.items():
            self._process.watch.add(pid, name)
        self._ready = ready
        _log.info("engine ready", session=self._id, engine=ready.engine, pids=ready.pids)

    # -- end -----------------------------------------------------------------------------------

    def _refuse_if_unusable(self) -> None:
        if self._closed:
            raise EngineDirty("the server was shut down", hint="start a new one")
        if self._dirty is not None:
            raise EngineDirty(
                f"the server takes no more scripts: {self._dirty}", hint="start a new one"
            )

    def shutdown(self) -> None:
        """End every process of the engine and remove the session's directory; idempotent."""
        if not self._closed:
            self._stop()
            self._plugins.hook.scripted_engine_stopped(config=self.config)

    def _stop(self) -> None:
        self._closed = True
        try:
            if self._ready is not None and self._dirty is None:
                try:
                    self._channel.send(Shutdown())
                except (zmq.ZMQError, ScriptedError):
                    _log.debug("the engine side was already gone at shutdown")
            self._process.stop()
        finally:
            self._channel.close()
            if not os.environ.get("SCRIPTED_KEEP_LOGS"):
                self._address.remove()

    def __enter__(self) -> ScriptedHttpServer:
        return self

    def __exit__(self, *_: object) -> None:
        self.shutdown()
