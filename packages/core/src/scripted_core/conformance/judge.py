"""Runs the checks on one engine and judges each."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

import pytest
from scripted_registry import EngineConfig, get_plugin_manager

from scripted_core.conformance.check import Check, EngineFacts
from scripted_core.conformance.suite import CHECKS
from scripted_core.conformance.verdict import Conformance, Row, Verdict
from scripted_core.errors import ScriptedError
from scripted_core.sessions.base import Session, backend_name, start_session

_LONGEST = 160
_VARYING = re.compile(r" \(pid \d+\)")
_OF_THE_SESSION = re.compile(r"^the script failed: (AssertionError: )?")


def run_conformance(
    config: EngineConfig,
    *,
    checks: Sequence[Check] = CHECKS,
    stall_timeout_s: float | None = None,
    on_row: Callable[[Row], None] | None = None,
) -> Conformance:
    """Start the engine of ``config`` and try out what each of ``checks`` says.

    One engine serves all of them; only one that a check has damaged or ended is started anew.
    ``on_row`` is told of each row as it is known. Raises what a start of the engine raises.
    """
    judge = _Judge(config, stall_timeout_s=stall_timeout_s)
    rows = []
    try:
        for check in checks:
            rows.append(judge.row_of(check))
            if on_row is not None:
                on_row(rows[-1])
    finally:
        judge.close()
    return Conformance(
        backend=_name_of(config), capabilities=tuple(sorted(judge.capabilities)), rows=tuple(rows)
    )


def _name_of(config: EngineConfig) -> str:
    default = get_plugin_manager().engine(config.engine).default_mode
    if config.mode is default:
        return config.engine
    return backend_name(config.engine, config.mode)


class _Judge:
    """Has the engine, and gets another one when it needs one."""

    def __init__(self, config: EngineConfig, *, stall_timeout_s: float | None) -> None:
        self._config = config
        self._facts = EngineFacts.of(config.kwargs)
        self._stall_timeout_s = stall_timeout_s
        self._session = self._start()
        self.capabilities = self._session.capabilities

    def _start(self) -> Session:
        return start_session(self._config, stall_timeout_s=self._stall_timeout_s)

    def close(self) -> None:
        """Stop the engine."""
        self._session.shutdown()

    def row_of(self, check: Check) -> Row:
        """Try the check out."""
        verdict, seen = self._judged(check)
        return Row(call=check.call, means=check.means, check=check.name, verdict=verdict, seen=seen)

    def _judged(self, check: Check) -> tuple[Verdict, str]:
        lacking = sorted(one.value for one in check.needs if one.value not in self.capabilities)
        if lacking:
            return Verdict.SKIPS, f"no {', '.join(lacking)}"
        unknown = [name for name in check.facts if getattr(self._facts, name) is None]
        if unknown:
            return Verdict.SKIPS, f"{', '.join(unknown)} not among its arguments"
        if self._session.dirty is not None:
            self._session.shutdown()
            self._session = self._start()
        try:
            digests = [self._digest_of(check, n) for n in range(len(check.scripts))]
        except pytest.skip.Exception as skip:
            return Verdict.SKIPS, str(skip.msg)
        except Exception as error:
            return Verdict.WRONG, what_was_seen(error)
        if check.same_events and len(set(digests)) > 1:
            return Verdict.WRONG, "the second run had other events than the first"
        return Verdict.DOES, ""

    def _digest_of(self, check: Check, n: int) -> str:
        self._session.execute_script(check.scripts[n], args=(self._facts,))
        return self._session.event_digest()


def what_was_seen(error: BaseException) -> str:
    """The first paragraph of an error, in a line: what a check saw, or how the engine broke."""
    text = error.message if isinstance(error, ScriptedError) else str(error)
    first = _VARYING.sub("", " ".join(text.strip().split("\n\n")[0].split()))
    by_session = _OF_THE_SESSION.match(first)
    if by_session is not None:
        first = first[by_session.end() :]
    elif type(error) is not AssertionError:
        first = f"{type(error).__name__}: {first}"
    return first if len(first) <= _LONGEST else f"{first[: _LONGEST - 1]}…"
