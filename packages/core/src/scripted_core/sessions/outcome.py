"""From the end of a script to the exception that the test sees."""

from __future__ import annotations

import unittest
from typing import NoReturn

import pytest
from _pytest.outcomes import Skipped

from scripted_core.errors import (
    CapabilityMissing,
    EngineDirty,
    LeakDetected,
    ReplyTimeout,
    ScriptedError,
    ScriptFailed,
    error_from_code,
)
from scripted_core.ports import JobOutcome
from scripted_core.wire import messages
from scripted_core.wire.plain import type_name

_LONGEST_TEXT = 200_000


class ScriptSkipped(Skipped, unittest.SkipTest):
    """A skip that pytest and a plain unittest runner both understand."""


def skipped(reason: str) -> ScriptSkipped:
    """The skip for ``reason``."""
    return ScriptSkipped(reason)


def damage(error: BaseException) -> str | None:
    """Why an engine takes no more scripts after ``error``; ``None`` when it is sound.

    A reset brings requests to an end, but it cannot mend an engine whose memory does not add up, nor
    one with a process that no longer answers.
    """
    if isinstance(error, (LeakDetected, EngineDirty, ReplyTimeout)):
        return f"an earlier script left it damaged ({type(error).__name__})"
    return None


def clean(text: str) -> str:
    """``text`` as it can travel: encodable, and cut to a length that a person could read."""
    if len(text) > _LONGEST_TEXT:
        text = f"{text[:_LONGEST_TEXT]}… ({len(text)} characters)"
    return text.encode("utf-8", "backslashreplace").decode()


def _text_of(error: BaseException) -> str:
    try:
        return str(error)
    except Exception as broken:  # an exception of the script's own making
        return f"<its __str__ raised {type(broken).__name__}>"


class Ended:
    """The closed set of outcomes on the wire."""

    FAILED = "failed"
    ERROR = "error"
    SKIPPED = "skipped"
    XFAILED = "xfailed"
    PYTEST_FAIL = "pytest_fail"
    PYTEST_EXIT = "pytest_exit"


def to_message(request_id: int, outcome: JobOutcome) -> messages.ScriptFailed:
    """Engine side: an outcome with an error, as it travels."""
    error = outcome.error
    assert error is not None
    kind = Ended.FAILED
    code = hint = ""
    message = clean(_text_of(error))
    if isinstance(error, (Skipped, unittest.SkipTest, CapabilityMissing)):
        kind = Ended.SKIPPED
    elif isinstance(error, pytest.xfail.Exception):
        kind = Ended.XFAILED
    elif isinstance(error, pytest.fail.Exception):
        kind = Ended.PYTEST_FAIL
    elif isinstance(error, pytest.exit.Exception):
        kind = Ended.PYTEST_EXIT
        code = "" if error.returncode is None else str(int(error.returncode))
    elif isinstance(error, ScriptedError):
        code, hint = error.code, error.hint or ""
        message = clean(str(error.args[0])) if error.args else ""
        kind = Ended.FAILED if isinstance(error, AssertionError) else Ended.ERROR
    return messages.ScriptFailed(
        request_id=request_id,
        outcome=kind,
        error_type=type(error).__name__,
        message=message,
        traceback=clean(outcome.traceback_text),
        last_state=clean(outcome.last_state),
        code=code,
        hint=hint,
        trace=outcome.trace,
        checks=outcome.checks,
        error_bases=tuple(type_name(base) for base in type(error).__mro__),
    )


def raise_remote(reply: messages.ScriptFailed) -> NoReturn:
    """Test side: raise what the script's end means here."""
    if reply.outcome == Ended.SKIPPED:
        raise skipped(reply.message)
    if reply.outcome == Ended.XFAILED:
        pytest.xfail(reply.message)
    if reply.outcome == Ended.PYTEST_FAIL:
        pytest.fail(reply.message, pytrace=False)
    if reply.outcome == Ended.PYTEST_EXIT:
        pytest.exit(reply.message, returncode=int(reply.code) if reply.code else None)
    details = f"{reply.traceback.rstrip()}\n\nlast state:\n{reply.last_state}"
    if reply.outcome == Ended.ERROR:
        raise error_from_code(reply.code, f"{reply.message}\n\n{details}", hint=reply.hint or None)
    text = f"the script failed: {reply.error_type}: {reply.message}\n\n{details}"
    error = error_from_code(reply.code or ScriptFailed.code, text, hint=reply.hint or None)
    if isinstance(error, ScriptFailed):
        error.remote_traceback = reply.traceback
        error.last_state = reply.last_state
        error.raised = reply.error_bases
    raise error


def raise_local(outcome: JobOutcome) -> NoReturn:
    """In-process: raise the script's own exception, so that its traceback is the test's.

    Assertion errors, outcomes of pytest and errors of our tree are raised as they are; any other
    exception means that the script failed, and is chained below a :class:`ScriptFailed`.
    """
    error = outcome.error
    assert error is not None
    if isinstance(error, CapabilityMissing):
        raise skipped(str(error)) from error
    if isinstance(error, pytest.exit.Exception):
        raise error
    if isinstance(error, AssertionError):
        error.add_note(f"last state:\n{outcome.last_state}")
    if isinstance(error, (AssertionError, ScriptedError)) or (
        not isinstance(error, (Exception, SystemExit))
    ):
        raise error
    if isinstance(error, unittest.SkipTest):
        raise skipped(str(error)) from error
    failed = ScriptFailed(
        f"the script failed: {type(error).__name__}: {error}\n\nlast state:\n{outcome.last_state}",
        remote_traceback=outcome.traceback_text,
        last_state=outcome.last_state,
    )
    failed.raised = tuple(type_name(base) for base in type(error).__mro__)
    raise failed from error
