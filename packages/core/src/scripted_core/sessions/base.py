"""What every session offers, and how a configuration becomes one."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from scripted_registry import EngineConfig, EngineMode, get_plugin_manager

from scripted_core.errors import ConfigError, EngineStartError
from scripted_core.trace import ChecksDone, StepListener, StepTrace
from scripted_core.wire.messages import HookReady

ENV_BACKEND = "SCRIPTED_BACKEND"
ENV_STALL_TIMEOUT = "SCRIPTED_STALL_TIMEOUT_S"
DEFAULT_STALL_TIMEOUT_S = 30.0
_LONGEST_STALL_TIMEOUT_S = 1_000_000
EMBEDDED = "reference"
"""The engine that is taken when none is named and it is installed."""


class Session(Protocol):
    """A running engine that takes scripts, one after the other."""

    config: EngineConfig

    @property
    def dirty(self) -> str | None:
        """Why the session takes no more scripts; ``None`` while it does."""
        ...

    @property
    def capabilities(self) -> frozenset[str]:
        """What the engine can do."""
        ...

    @property
    def ready(self) -> HookReady | None:
        """Name and version of the engine, its processes; ``None`` before the handshake."""
        ...

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
        """Reset the engine, then run ``fn(t, *args, **kwargs)`` inside it to its end."""
        ...

    @property
    def last_trace(self) -> tuple[StepTrace, ...]:
        """The latest script iteration by iteration, if it ran with ``want_trace``."""
        ...

    @property
    def last_steps(self) -> int | None:
        """Iterations that the latest script completed, also of one that was cut off.

        ``None`` where that is not known.
        """
        ...

    @property
    def last_checks(self) -> ChecksDone:
        """What the runtime checked of the latest script."""
        ...

    def event_digest(self) -> str:
        """Digest of everything that happened in the last script, in order."""
        ...

    def shutdown(self) -> None:
        """Stop the engine; may be called twice."""
        ...


def make_config(
    backend: str | None,
    engine_kwargs: Mapping[str, Any],
    *,
    mode: EngineMode | None = None,
    seed: int = 0,
) -> EngineConfig:
    """The configuration for ``backend``, an engine's name or ``NAME:MODE`` (``reference:server``).

    Without one it is ``$SCRIPTED_BACKEND``, the embedded engine, or the only one that would do. A
    name alone stands for the engine in ``mode``, or else in the mode that it prefers.

    Raises ``PluginNotFound`` for an engine that is not installed, ``ConfigError`` for a mode that
    it does not have or when the choice is open, ``EngineStartError`` when the engine says that it
    cannot be used here.
    """
    plugins = get_plugin_manager()
    named = backend or os.environ.get(ENV_BACKEND) or None
    if named is None:
        fitting = [
            spec.name for spec in plugins.engines().values() if mode is None or mode in spec.modes
        ]
        if EMBEDDED in fitting:
            fitting = [EMBEDDED]
        if len(fitting) != 1:
            raise ConfigError(
                f"no backend was chosen and {len(fitting)} installed ones would do"
                + (f": {', '.join(sorted(fitting))}" if fitting else ""),
                hint=f"pass backend=…, set ${ENV_BACKEND}, or pip install 'scripted-core[reference]'",
            )
        named = fitting[0]
    name, named_mode = parse_backend(named)
    spec = plugins.engine(name)
    if mode is not None and named_mode is not None and named_mode is not mode:
        raise ConfigError(
            f"backend {named!r} cannot be used where an engine has to run {mode.value}",
            hint=f"name it {name!r}, or {backend_name(name, mode)!r}",
        )
    chosen = named_mode or mode or spec.modes[0]
    if chosen not in spec.modes:
        raise ConfigError(
            f"engine {name!r} does not run {chosen.value}",
            hint=f"it runs {', '.join(m.value for m in spec.modes)}",
        )
    missing = spec.check() if spec.check is not None else None
    if missing is not None:
        raise EngineStartError(f"engine {name!r} cannot be used here: {missing}")
    return EngineConfig(engine=name, kwargs=dict(engine_kwargs), mode=chosen, seed=seed)


def parse_backend(text: str) -> tuple[str, EngineMode | None]:
    """Engine and mode of ``NAME`` or ``NAME:MODE``; ``ConfigError`` for a mode that there is not."""
    name, colon, mode = text.partition(":")
    if not colon:
        return name, None
    try:
        return name, EngineMode(mode)
    except ValueError:
        raise ConfigError(
            f"backend {text!r}: {mode!r} is no mode of an engine",
            hint="for example " + " or ".join(f"{name}:{known.value}" for known in EngineMode),
        ) from None


def backend_name(engine: str, mode: EngineMode) -> str:
    """An engine in a mode, as ``make_config`` reads it."""
    return f"{engine}:{mode.value}"


def start_session(config: EngineConfig, *, stall_timeout_s: float | None = None) -> Session:
    """Start the engine of ``config`` in its mode."""
    if config.mode is EngineMode.IN_PROCESS:
        from scripted_core.sessions.in_process import InProcessSession

        return InProcessSession.from_config(config, stall_timeout_s=stall_timeout_s)
    from scripted_core.sessions.http_server import ScriptedHttpServer

    return ScriptedHttpServer.from_config(config, stall_timeout_s=stall_timeout_s)


def stall_timeout(given_s: float | None) -> float:
    """The stall deadline in seconds: given, from the environment, or the default of 30.

    Raises ``ConfigError`` for one that is no positive, finite number of seconds.
    """
    name, value = "stall_timeout_s", given_s
    if given_s is None:
        text = os.environ.get(ENV_STALL_TIMEOUT)
        if text is None:
            return DEFAULT_STALL_TIMEOUT_S
        name = ENV_STALL_TIMEOUT
        try:
            value = float(text)
        except ValueError:
            value = None
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if value is None or not is_number or not 0 < value <= _LONGEST_STALL_TIMEOUT_S:
        raise ConfigError(
            f"{name}={given_s if given_s is not None else text!r} is not a number of seconds above 0 "
            f"and up to {_LONGEST_STALL_TIMEOUT_S}",
            hint=f"leave it out for the default of {DEFAULT_STALL_TIMEOUT_S:g}",
        )
    return float(value)
