"""What plugins are told about engines and scripts, in one place for every kind of session."""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from scripted_registry import EngineConfig, get_plugin_manager


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
