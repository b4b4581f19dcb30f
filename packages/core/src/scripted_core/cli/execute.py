"""Runs found scripts on sessions, one engine for each configuration in a row."""

from __future__ import annotations

import logging
import sys
import traceback
import types
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TextIO, cast

import pytest
import structlog
from scripted_registry import EngineConfig

from scripted_core.capabilities import Capability
from scripted_core.cli.find import FoundScript, FoundScripts
from scripted_core.cli.results import Heading, Ran, RunOutcome, RunView
from scripted_core.errors import ConfigError, ScriptedError, ScriptFailed
from scripted_core.sessions.attached import AttachTo
from scripted_core.sessions.base import Session, make_config, start_session
from scripted_core.sessions.fit import misfit
from scripted_core.sessions.http_server import ScriptedHttpServer
from scripted_core.trace import NOTHING_CHECKED


def execute(
    found: FoundScripts,
    *,
    backend: str | None,
    seed: int,
    overrides: Mapping[str, Any],
    view: RunView,
    attach_to: AttachTo | None = None,
) -> list[Ran]:
    """Run the scripts in the order of the file, and show ``view`` each as it goes.

    An engine is kept for the next script when that wants the same one; ``attach_to`` names one that
    runs already, on which a script that wants other server arguments is skipped. Raises what a
    start of an engine raises (``EngineStartError``, ``ConfigError``, …); a script's own end is in its
    result.
    """
    _log_to_stderr()
    session: Session | None = None
    stall_timeout_s: float | None = None
    results = []
    try:
        for name, reason in found.left_out.items():
            view.left_out(name, reason, found.path)
        for script in found.scripts:
            wanted_s = script.options.get("stall_timeout_s")
            config = None
            if attach_to is None:
                config = make_config(backend, {**script.engine_kwargs, **overrides}, seed=seed)
            if session is not None and (
                session.dirty
                or wanted_s != stall_timeout_s
                or (config is not None and session.config != config)
            ):
                session.shutdown()
                session = None
            if session is None:
                where = config.engine if attach_to is None and config else "the engine"
                with view.starting(where):
                    session = _start(config, attach_to, seed=seed, stall_timeout_s=wanted_s)
                stall_timeout_s = wanted_s
            results.append(_run_one(session, script, path=found.path, view=view))
    except BaseException:
        view.interrupted()
        raise
    finally:
        if session is not None:
            session.shutdown()
    return results


def _start(
    config: EngineConfig | None,
    attach_to: AttachTo | None,
    *,
    seed: int,
    stall_timeout_s: float | None,
) -> Session:
    if attach_to is not None:
        return ScriptedHttpServer.attach_to(attach_to, seed=seed, stall_timeout_s=stall_timeout_s)
    assert config is not None, "one of the two is given"
    return start_session(config, stall_timeout_s=stall_timeout_s)


def _run_one(session: Session, script: FoundScript, *, path: Path, view: RunView) -> Ran:
    heading = Heading(
        name=script.name,
        engine=session.config.engine,
        mode=session.config.mode.value,
        seed=session.config.seed,
    )
    outcome, text, code, digest = RunOutcome.PASSED, "", None, None
    check_invariants = bool(script.options.get("check_invariants", True))
    missing = _missing(session, script)
    on_step = view.begin(heading)
    if missing is None:
        try:
            session.execute_script(
                script.function,
                timeout_s=script.options.get("timeout_s"),
                check_invariants=check_invariants,
                want_trace=True,
                on_step=on_step,
            )
            digest = session.event_digest()
        except pytest.skip.Exception as skip:
            outcome, text = RunOutcome.SKIPPED, str(skip)
        except pytest.xfail.Exception as expected:
            outcome, text = RunOutcome.XFAILED, str(expected)
        except (Exception, pytest.fail.Exception) as error:
            outcome, text = RunOutcome.FAILED, _explain(error, path)
            code = error.code if isinstance(error, ScriptedError) else None
    else:
        outcome, text = RunOutcome.SKIPPED, missing
    result = Ran(
        heading=heading,
        outcome=outcome,
        invariants_checked=check_invariants,
        checks=session.last_checks if missing is None else NOTHING_CHECKED,
        trace=session.last_trace if missing is None else (),
        steps=session.last_steps if missing is None else 0,
        digest=digest,
        text=text,
        code=code,
    )
    view.end(result)
    return result


def _missing(session: Session, script: FoundScript) -> str | None:
    """Why the script cannot run on this engine."""
    if isinstance(session, ScriptedHttpServer) and session.is_attached:
        reason = misfit(script.engine_kwargs, session.arguments)
        if reason is not None:
            return reason
    for name in script.requires:
        try:
            needed = Capability(name)
        except ValueError:
            raise ConfigError(
                f"{script.name}: scripted_requires({name!r}): no such capability",
                hint=f"one of {', '.join(capability.value for capability in Capability)}",
            ) from None
        if needed.value not in session.capabilities:
            return f"engine {session.config.engine!r} has no capability {needed.value!r}"
    return None


def _explain(error: BaseException, path: Path) -> str:
    """The error as text, its traceback from the script's own first frame on."""
    if isinstance(error, ScriptFailed) and error.remote_traceback:
        text, engine_side = str(error), error.remote_traceback.strip()
        return text if engine_side in text else f"{engine_side}\n\n{text}"
    start = error.__traceback__
    while start is not None and start.tb_frame.f_code.co_filename != str(path):
        start = start.tb_next
    frames = _frames(start)
    if isinstance(error, ScriptedError):
        return f"{frames}{type(error).__name__}: {error}"
    return frames + "".join(traceback.format_exception_only(error)).rstrip()


def _frames(start: types.TracebackType | None) -> str:
    if start is None:
        return ""
    return "Traceback (most recent call last):\n" + "".join(traceback.format_tb(start))


class _CurrentStderr:
    """Writes to whatever ``sys.stderr`` is at the time: a live view puts itself in its place."""

    def write(self, text: str) -> int:
        return sys.stderr.write(text)

    def flush(self) -> None:
        sys.stderr.flush()


def _log_to_stderr() -> None:
    """Keep stdout for results: warnings and worse go to stderr, unless logging is set up already."""
    if not structlog.is_configured():
        structlog.configure(
            wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING),
            logger_factory=structlog.PrintLoggerFactory(file=cast("TextIO", _CurrentStderr())),
        )
