"""Runs programs on engines: keeps an engine as long as it is sound, and learns undisturbed outputs."""

from __future__ import annotations

import contextlib
import itertools
import logging
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import msgspec
import pytest
import structlog
from scripted_core import InProcessSession
from scripted_core.errors import (
    ConfigError,
    EngineStartError,
    PluginNotFound,
    ScriptNotImportable,
)
from scripted_core.sessions.base import Session, make_config, start_session
from scripted_registry import EngineMode

from scripted_explore import report as reports
from scripted_explore.facts import Facts, facts_of
from scripted_explore.finding import Signature, signature_of
from scripted_explore.program import Program, PromptKey
from scripted_explore.report import RunReport
from scripted_explore.scripts import played, undisturbed
from scripted_explore.space import Topology

STALL_TIMEOUT_S: Final = 5.0
"""An iteration of an engine in this process takes a millisecond."""
HURRIED_STALL_TIMEOUT_S: Final = 1.0
SERVER_STALL_TIMEOUT_S: Final = 30.0
_SCRIPT_TIMEOUT_S: Final = 120.0


class Run(msgspec.Struct):
    """One run: what was seen, and how it failed if it did."""

    report: RunReport
    error: BaseException | None = None
    signature: Signature | None = None
    digest: str = ""
    """Of the events, where it was asked for and the run did not fail."""


class Laboratory:
    """Engines of one backend, one at a time for programs and one for undisturbed runs.

    ``extra`` are engine arguments for all of them. Use as a context manager: it shuts them down.
    """

    def __init__(
        self,
        backend: str,
        topologies: tuple[Topology, ...],
        *,
        extra: Mapping[str, Any] | None = None,
    ) -> None:
        self.backend = backend
        self.topologies = {one.name: one for one in topologies}
        self._extra = dict(extra or {})
        self._session: Session | None = None
        self._alone: dict[str, Session] = {}
        self._outputs: dict[str, dict[str, list[int]]] = {}
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._numbers = itertools.count()
        self._hurried = False
        self.starts = 0
        if not structlog.is_configured():
            # What an engine says of a death is in the finding; the terminal is for the progress.
            structlog.configure(
                wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL)
            )

    def __enter__(self) -> Laboratory:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Shut every engine down."""
        for session in (self._session, *self._alone.values()):
            if session is not None:
                session.shutdown()
        self._session = None
        self._alone.clear()
        if self._folder is not None:
            self._folder.cleanup()
            self._folder = None

    @contextlib.contextmanager
    def hurried(self) -> Iterator[None]:
        """In here an engine of this process is stalled sooner: for programs that are known to stall."""
        self.close()
        self._hurried = True
        try:
            yield
        finally:
            self._hurried = False
            self.close()

    # -- runs ----------------------------------------------------------------------------------

    def run(self, program: Program, *, fresh: bool = False, digest: bool = False) -> Run:
        """Run a program; ``fresh`` on an engine that has run nothing before.

        With ``digest`` the run has that of its events, which takes as long as some twenty iterations.
        """
        report = RunReport()
        try:
            outputs = self.outputs(program)
        except UndisturbedFailed as failed:
            return Run(report, failed.error, failed.signature)
        try:
            session = self._session_for(program, fresh=fresh)
            facts = self.facts(program, session)
            self._execute(session, played, report, program.ops, outputs, facts)
        except pytest.skip.Exception as skip:
            raise ConfigError(f"the engine skips what is explored: {skip}") from skip
        except (ConfigError, EngineStartError, PluginNotFound, ScriptNotImportable):
            raise
        except Exception as error:
            self._retire_in_process()
            return Run(report, error, signature_of(error))
        return Run(report, digest=session.event_digest() if digest else "")

    def outputs(self, program: Program) -> dict[str, list[int]]:
        """What the program's prompts put out undisturbed; each is run once for a topology."""
        known = self._outputs.setdefault(program.topology, {})
        missing = [key for key in program.prompts() if key.text not in known]
        if missing:
            self._learn(program, missing, known)
        return {
            name: known[name]
            for key in program.prompts()
            for name in (key.text, f"{key.text} stops")
            if name in known
        }

    def _learn(
        self, program: Program, missing: list[PromptKey], known: dict[str, list[int]]
    ) -> None:
        report = RunReport()
        keys = [[one.family, one.shared, one.own, one.own_tokens] for one in missing]
        try:
            session = self._session_alone(program)
            self._execute(session, undisturbed, report, keys)
        except (ConfigError, EngineStartError, PluginNotFound, ScriptNotImportable):
            raise
        except Exception as error:
            signature = signature_of(error)
            raise UndisturbedFailed(error, signature) from error
        known.update(report.outputs)

    def facts(self, program: Program, session: Session) -> Facts:
        """What the rules have to know of the program's engine."""
        return facts_of(
            program.kwargs,
            overlap="overlap" in session.capabilities,
            avoid=self.topologies[program.topology].avoid,
        )

    def _execute(self, session: Session, script: Any, report: RunReport, *args: Any) -> None:
        if isinstance(session, InProcessSession):
            session.execute_script(script, args=(*args, report), timeout_s=_SCRIPT_TIMEOUT_S)
            return
        if self._folder is None:
            self._folder = tempfile.TemporaryDirectory(prefix="scripted-explore-")
        path = Path(self._folder.name) / f"{next(self._numbers)}.json"
        texts = [
            msgspec.json.encode(value).decode() if isinstance(value, (tuple, Facts)) else value
            for value in args
        ]
        try:
            session.execute_script(script, args=(*texts, str(path)), timeout_s=_SCRIPT_TIMEOUT_S)
        finally:
            seen = reports.read(path)
            if seen is not None:
                report.take(seen)
                report.outputs.update(seen.outputs)
                path.unlink()

    # -- engines -------------------------------------------------------------------------------

    def _session_for(self, program: Program, *, fresh: bool) -> Session:
        kwargs = {**program.kwargs, **self._extra}
        session = self._session
        if session is not None and (fresh or session.dirty or session.config.kwargs != kwargs):
            session.shutdown()
            self._session = session = None
        if session is None:
            self._session = session = self._start(kwargs)
        return session

    def _retire_in_process(self) -> None:
        # A new one takes milliseconds; the reset of one that failed can wait for clients for seconds.
        if isinstance(self._session, InProcessSession):
            self._session.shutdown()
            self._session = None

    def _session_alone(self, program: Program) -> Session:
        topology = self.topologies[program.topology]
        if topology.fixed:
            return self._session_for(program, fresh=False)
        session = self._alone.get(topology.name)
        if session is not None and session.dirty:
            session.shutdown()
            session = None
        if session is None:
            session = self._start({**topology.base, **self._extra})
            self._alone[topology.name] = session
        return session

    def _start(self, kwargs: Mapping[str, Any]) -> Session:
        self.starts += 1
        config = make_config(self.backend, kwargs)
        timeout_s = HURRIED_STALL_TIMEOUT_S if self._hurried else STALL_TIMEOUT_S
        if config.mode is EngineMode.SERVER:
            timeout_s = SERVER_STALL_TIMEOUT_S
        return start_session(config, stall_timeout_s=timeout_s)


class UndisturbedFailed(Exception):
    """A prompt failed when nothing disturbed it."""

    def __init__(self, error: BaseException, signature: Signature) -> None:
        super().__init__(str(error))
        self.error = error
        self.signature = signature
