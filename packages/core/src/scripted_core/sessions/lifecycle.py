"""What plugins are told about engines and scripts, in one place for every kind of session."""

from __future__ import annotations

import contextlib
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from scripted_registry import EngineConfig, get_plugin_manager

from scripted_core.errors import ConfigError, ReplyTimeout


class Deadline:
    """The time limit of one script; none when ``timeout_s`` is ``None``.

    Raises ``ConfigError`` for a limit that is no positive number of seconds.
    """

    def __init__(self, timeout_s: float | None) -> None:
        if timeout_s is not None and not timeout_s > 0:
            raise ConfigError(
                f"timeout_s={timeout_s!r} is no positive number of seconds",
                hint="leave it out for no limit",
            )
        self._timeout_s = timeout_s
        self._ends_at = None if timeout_s is None else time.monotonic() + timeout_s

    @property
    def passed(self) -> bool:
        """Whether the time is up."""
        return self._ends_at is not None and time.monotonic() > self._ends_at

    def error(self, details: str) -> ReplyTimeout:
        """What to raise then; ``details`` say where the script was."""
        return ReplyTimeout(
            f"the script did not end within {self._timeout_s:g} s\n\n{details}",
            hint="raise timeout_s, or bound the script's own waits",
        )


@dataclass(frozen=True, kw_only=True)
class ScriptRun:
    """One execution of one script in one session."""

    script: str
    session_id: str
    backend: str
    seed: int


def new_session_id() -> str:
    """A name for a session, unique on this machine."""
    return uuid.uuid4().hex[:12]


def script_run(fn: Callable[..., Any], *, session_id: str, config: EngineConfig) -> ScriptRun:
    """The run of ``fn`` as plugins see it."""
    module = getattr(fn, "__module__", None) or "?"
    name = getattr(fn, "__qualname__", None) or repr(fn)
    return ScriptRun(
        script=f"{module}.{name}", session_id=session_id, backend=config.engine, seed=config.seed
    )


@contextlib.contextmanager
def announced_start(config: EngineConfig) -> Iterator[None]:
    """Around a start: a start that fails is followed by ``scripted_engine_stopped`` too."""
    hook = get_plugin_manager().hook
    hook.scripted_engine_before_start(config=config)
    try:
        yield
    except BaseException:
        hook.scripted_engine_stopped(config=config)
        raise


@contextlib.contextmanager
def announced_run(run: ScriptRun) -> Iterator[None]:
    """Around a script: before, on an error, and after, however it ended."""
    hook = get_plugin_manager().hook
    hook.scripted_script_before_run(run=run)
    try:
        yield
    except BaseException as error:
        hook.scripted_script_on_error(run=run, error=error)
        raise
    finally:
        hook.scripted_script_after_run(run=run)
