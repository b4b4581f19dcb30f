"""``ScriptedHttpServer``: an engine in processes of its own, with its HTTP front."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from scripted_registry import EngineConfig, EngineMode, get_plugin_manager

from scripted_core.errors import (
    EngineDied,
    EngineDirty,
    EngineError,
    EngineStartError,
    PluginContractError,
    ScriptedError,
)
from scripted_core.logs import get_logger
from scripted_core.scripts.reference import reference_of
from scripted_core.sessions.attached import DEFAULT_ATTACH_TIMEOUT_S, AttachedEngine, AttachTo
from scripted_core.sessions.base import make_config, stall_timeout
from scripted_core.sessions.conversation import Conversation
from scripted_core.sessions.engine_end import EngineEnd
from scripted_core.sessions.launch import ServerLaunch
from scripted_core.sessions.launched import LaunchedEngine
from scripted_core.sessions.lifecycle import (
    Deadline,
    announced_run,
    announced_start,
    new_session_id,
    script_run,
)
from scripted_core.sessions.outcome import damage, raise_remote
from scripted_core.sessions.startup import check_hello
from scripted_core.trace import NOTHING_CHECKED, ChecksDone, StepListener, StepTrace
from scripted_core.wire.messages import (
    HookReady,
    RunScript,
    ScriptFailed,
)
from scripted_core.wire.plain import plain_args, plain_kwargs
from scripted_core.wire.transport import TestSideChannel

_log = get_logger("scripted.session")


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
        engine: EngineEnd,
        stall_timeout_s: float,
        ships_source: bool = False,
    ) -> None:
        self.config = config
        self._engine = engine
        self._ships_source = ships_source
        self._dirty: str | None = None
        self._closed = False
        self._digest = ""
        self._trace: tuple[StepTrace, ...] = ()
        self._steps: int | None = None
        self._checks: ChecksDone = NOTHING_CHECKED
        self._request_ids = itertools.count(1)
        self._plugins = get_plugin_manager()
        self._id = new_session_id()
        self._ready: HookReady | None = None
        self._has_started = False  # it has said hello, and its front answers
        self._talk = Conversation(engine, stall_timeout_s=stall_timeout_s, died=self._died)

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
    def attach(
        cls,
        address: str,
        *,
        key_file: str | os.PathLike[str] | None = None,
        timeout_s: float = DEFAULT_ATTACH_TIMEOUT_S,
        wait_s: float = 0.0,
        seed: int = 0,
        stall_timeout_s: float | None = None,
    ) -> ScriptedHttpServer:
        """Attach to an engine that somebody else has started (``SCRIPTED_LISTEN`` is its address).

        It takes one client at a time; ``shutdown`` detaches, and the engine runs on. Scripts travel
        as source where the engine's machine has not the same file. Raises ``EngineUnreachable``,
        ``KeyRefused``, ``EngineBusy`` with the name of the client that is attached,
        ``ProtocolMismatch``, and ``ConfigError`` for a key file that cannot be used.
        """
        to = AttachTo(address=address, key_file=key_file, timeout_s=timeout_s, wait_s=wait_s)
        return cls.attach_to(to, seed=seed, stall_timeout_s=stall_timeout_s)

    @classmethod
    def attach_to(
        cls, to: AttachTo, *, seed: int = 0, stall_timeout_s: float | None = None
    ) -> ScriptedHttpServer:
        """The same, with all that says where in one."""
        stall_timeout_s = stall_timeout(stall_timeout_s)
        engine = AttachedEngine(to)
        config = EngineConfig(
            engine=engine.ready.engine, kwargs={}, mode=EngineMode.SERVER, seed=seed
        )
        server = cls(
            config=config, engine=engine, stall_timeout_s=stall_timeout_s, ships_source=True
        )
        try:
            server._accept(engine.ready)
            server._has_started = True
        except BaseException:
            engine.stop(politely=True)
            raise
        return server

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
            stall_timeout_s = stall_timeout(stall_timeout_s)
            transport = plugins.hook.scripted_make_transport(config=config) or TestSideChannel
            engine = LaunchedEngine(launch, engine=config.engine, transport=transport)
            server = cls(config=config, engine=engine, stall_timeout_s=stall_timeout_s)
            try:
                engine.await_ready(
                    hello=server._said_hello, poll=lambda: server._talk.next_message(0.0)
                )
                server._has_started = True
                plugins.hook.scripted_engine_started(config=config, ready=server._ready)
            except BaseException:
                server._stop()
                raise
        return server

    # -- what it is ----------------------------------------------------------------------------

    @property
    def base_url(self) -> str:
        """``http://host:port`` of the engine's own HTTP front.

        A server of somebody else's takes scripts as soon as its scheduler is there, which may be a
        moment before its front answers requests.
        """
        return self._engine.base_url

    @property
    def member_urls(self) -> dict[str, str]:
        """URLs of the servers that the engine consists of (``prefill``, ``decode``); empty of one."""
        return self._engine.member_urls

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
        return self._engine.pids

    @property
    def main_pid(self) -> int:
        """The process that was started; the engine's process group has its number."""
        if self._engine.main_pid is None:
            raise EngineError("this engine was started by somebody else", hint="see pids")
        return self._engine.main_pid

    @property
    def ready(self) -> HookReady | None:
        """What the engine side said at the handshake."""
        return self._ready

    @property
    def is_attached(self) -> bool:
        """Whether somebody else has started the engine."""
        return self._engine.main_pid is None

    @property
    def arguments(self) -> dict[str, Any]:
        """The engine's server arguments as it has settled them, plain ones; empty if it does not say."""
        return self._ready.arguments if self._ready is not None else {}

    @property
    def log_path(self) -> Path:
        """What the engine prints to; it goes with the session."""
        if self._engine.log_path is None:
            raise EngineError(
                "this engine was started by somebody else", hint="its log is where that was"
            )
        return self._engine.log_path

    def log_text(self) -> str:
        """Everything that the engine has printed."""
        return self._engine.log_text()

    @property
    def last_trace(self) -> tuple[StepTrace, ...]:
        """The latest script iteration by iteration, if it ran with ``want_trace``."""
        return self._trace

    @property
    def last_steps(self) -> int | None:
        """Iterations that the latest script completed; ``None`` where that is not known."""
        return self._steps

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
                script=reference_of(fn, with_source=self._ships_source),
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
        self._trace, self._checks, self._steps = (), NOTHING_CHECKED, None
        try:
            reply = self._talk.run(request, deadline=deadline, on_step=on_step)
        except BaseException as error:
            self._steps = self._engine.steps_of(request.request_id)
            if self._dirty is None:
                self._dirty = f"an earlier script was cut off ({type(error).__name__})"
            raise
        self._trace, self._checks = reply.trace, reply.checks
        self._steps = self._engine.steps_of(request.request_id)
        if request.want_trace:
            self._steps = len(reply.trace)
        if isinstance(reply, ScriptFailed):
            try:
                raise_remote(reply)
            except ScriptedError as error:
                self._dirty = damage(error)
                raise
        self._digest = reply.event_digest

    def watch_over(self) -> NoReturn:
        """Wait until a process of the engine ends, and raise what it died of."""
        while True:
            self._talk.next_message(3600.0)

    # -- start ---------------------------------------------------------------------------------

    def _died(self, what: str) -> EngineError:
        """The error for the end of the engine, of which everybody is told."""
        explained = None if self._has_started else self._engine.explain()
        kind = EngineDied if self._has_started else EngineStartError
        said = f"\n\n{explained}" if explained else ""
        error = kind(
            f"engine {self.config.engine!r}: {what}{said}\n\nlog tail:\n{self._engine.log_tail()}"
        )
        self._dirty = what.splitlines()[0]
        _log.info("engine died", session=self._id, engine=self.config.engine, what=self._dirty)
        self._plugins.hook.scripted_engine_died(config=self.config, error=error)
        return error

    def _said_hello(self, timeout_s: float) -> bool:
        message = self._talk.next_message(timeout_s)
        if isinstance(message, HookReady):
            self._accept(message)
        return self._ready is not None

    def _accept(self, ready: HookReady) -> None:
        check_hello(ready, engine=self.config.engine)
        self._engine.accept(ready)
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
        """End every process of the engine and remove the session's directory; idempotent.

        One that was attached to is only left: it runs on.
        """
        if not self._closed:
            self._stop()
            self._plugins.hook.scripted_engine_stopped(config=self.config)

    def _stop(self) -> None:
        self._closed = True
        self._engine.stop(politely=self._ready is not None and self._dirty is None)

    def __enter__(self) -> ScriptedHttpServer:
        return self

    def __exit__(self, *_: object) -> None:
        self.shutdown()
