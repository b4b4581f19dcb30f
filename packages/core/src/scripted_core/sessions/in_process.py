"""An engine in this very process: no wire, no copies, any callable is a script."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

from scripted_registry import EngineConfig, EngineMode, get_plugin_manager

from scripted_core.errors import ConfigError, EngineDirty, ScriptStalled
from scripted_core.ports import InProcessEngine
from scripted_core.sessions.base import make_config, stall_timeout
from scripted_core.sessions.lifecycle import (
    Deadline,
    announced_run,
    announced_start,
    new_session_id,
    script_run,
)
from scripted_core.sessions.outcome import damage, raise_local
from scripted_core.sessions.stall_guard import StallGuard, StallInterrupt
from scripted_core.trace import NOTHING_CHECKED, ChecksDone, StepListener, StepTrace
from scripted_core.wire.messages import PROTOCOL_VERSION, HookReady


class InProcessSession:
    """Drives an in-process engine: each iteration of its loop is one ``next()`` of the script.

    Use :meth:`start`; as a context manager it shuts the engine down at the end.
    """

    def __init__(
        self, *, config: EngineConfig, engine: InProcessEngine, stall_timeout_s: float
    ) -> None:
        self.config = config
        self._engine = engine
        self._stall_timeout_s = stall_timeout_s
        self._dirty: str | None = None
        self._closed = False
        self._running = False
        self._id = new_session_id()
        self._trace: tuple[StepTrace, ...] = ()
        self._steps: int | None = None
        self._checks = NOTHING_CHECKED

    @classmethod
    def start(
        cls,
        *,
        backend: str | None = None,
        seed: int = 0,
        stall_timeout_s: float | None = None,
        **engine_kwargs: Any,
    ) -> InProcessSession:
        """Start an engine; keyword arguments are the engine's own (SGLang's server arguments)."""
        config = make_config(backend, engine_kwargs, mode=EngineMode.IN_PROCESS, seed=seed)
        return cls.from_config(config, stall_timeout_s=stall_timeout_s)

    @classmethod
    def from_config(
        cls, config: EngineConfig, *, stall_timeout_s: float | None = None
    ) -> InProcessSession:
        """Start the engine that ``config`` describes."""
        plugins = get_plugin_manager()
        with announced_start(config):
            engine = cast("InProcessEngine", plugins.make_engine(config))
            session = cls(
                config=config, engine=engine, stall_timeout_s=stall_timeout(stall_timeout_s)
            )
            plugins.hook.scripted_engine_started(config=config, ready=session.ready)
        return session

    @property
    def ready(self) -> HookReady:
        """What the engine says of itself, as at a handshake."""
        port = self._engine.hook.engine
        return HookReady(
            protocol_version=PROTOCOL_VERSION,
            engine=port.name,
            engine_version=port.version,
            capabilities=tuple(sorted(port.capabilities)),
            pids={"engine": os.getpid()},
            hooks_fired=(),
        )

    @property
    def dirty(self) -> str | None:
        """Why it takes no more scripts."""
        return self._dirty

    @property
    def engine(self) -> InProcessEngine:
        """The engine: ``iterate()`` runs one free iteration between scripts."""
        return self._engine

    @property
    def capabilities(self) -> frozenset[str]:
        """What the engine can do."""
        return frozenset(self._engine.hook.engine.capabilities)

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
        """Reset the engine, then run ``fn(t, *args, **kwargs)`` to its end.

        ``on_step`` is told of each iteration right after it; what it raises ends the script.
        Raises what the script raised (see ``sessions.outcome``), ``ScriptStalled`` when one
        iteration takes longer than the stall deadline, ``ReplyTimeout`` after ``timeout_s``
        seconds, ``EngineDirty`` after an earlier stall or interrupt.
        """
        if self._closed:
            raise EngineDirty("the session was shut down", hint="start a new one")
        if self._dirty is not None:
            raise EngineDirty(
                f"the engine takes no more scripts: {self._dirty}", hint="start a new session"
            )
        if self._running:
            raise ConfigError(
                "a script is already running in this session",
                hint="one after the other; from inside a script, yield from the other generator",
            )
        with announced_run(script_run(fn, session_id=self._id, config=self.config)):
            deadline = Deadline(timeout_s)
            self._engine.hook.start_job(
                name=getattr(fn, "__qualname__", repr(fn)),
                function=fn,
                args=args,
                kwargs=kwargs,
                check_invariants=check_invariants,
                seed=self.config.seed,
                want_trace=want_trace,
                on_step=on_step,
            )
            self._run(deadline=deadline)

    def _run(self, *, deadline: Deadline) -> None:
        self._running = True
        try:
            self._drive(deadline)
        finally:
            self._running = False

    def _drive(self, deadline: Deadline) -> None:
        hook = self._engine.hook
        self._trace, self._checks, self._steps = (), NOTHING_CHECKED, None
        try:
            with StallGuard(lambda: hook.progress, timeout_s=self._stall_timeout_s) as guard:
                iterate = self._engine.iterate
                while hook.outcome is None:
                    iterate()
                    if deadline.passed and hook.outcome is None:
                        raise deadline.error(f"last state:\n{hook.describe_state()}")
        except BaseException as error:
            self._dirty = f"an earlier script was cut off ({type(error).__name__})"
            state = hook.describe_state()
            self._steps = hook.step_index
            hook.abandon()
            if isinstance(error, StallInterrupt):
                raise self._stalled(guard, state) from None
            raise
        outcome = hook.outcome
        assert outcome is not None
        self._steps = outcome.steps
        if guard.report or isinstance(outcome.error, StallInterrupt):
            raise self._stalled(guard, outcome.last_state) from None
        self._trace, self._checks = outcome.trace, outcome.checks
        if outcome.error is not None:
            self._dirty = damage(outcome.error)
            raise_local(outcome)

    def _stalled(self, guard: StallGuard, state: str) -> ScriptStalled:
        self._dirty = "an earlier script was cut off (ScriptStalled)"
        return ScriptStalled(
            f"{guard.report}\n\nlast state:\n{state}",
            hint="each iteration of the script has to reach its next yield; see the stacks",
        )

    @property
    def last_trace(self) -> tuple[StepTrace, ...]:
        """The latest script iteration by iteration, if it ran with ``want_trace``."""
        return self._trace

    @property
    def last_steps(self) -> int | None:
        """Iterations that the latest script completed; ``None`` before the first."""
        return self._steps

    @property
    def last_checks(self) -> ChecksDone:
        """What the runtime checked of the latest script."""
        return self._checks

    def event_digest(self) -> str:
        """Digest of everything that happened in the last script, in order."""
        return self._engine.hook.event_digest()

    def shutdown(self) -> None:
        """Release the engine; may be called twice."""
        if not self._closed:
            self._closed = True
            self._engine.close()
            get_plugin_manager().hook.scripted_engine_stopped(config=self.config)

    def __enter__(self) -> InProcessSession:
        return self

    def __exit__(self, *_: object) -> None:
        self.shutdown()
