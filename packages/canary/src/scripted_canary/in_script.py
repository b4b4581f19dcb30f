"""The seeds' assertions for a script, whose canary is in its own process: ``yield from`` them.

An engine in one process has both sides of a pair. In the decode server of a pair of servers a script
sees that server's canary; the other one is asked over HTTP (``scripted_canary.servers``).
"""

from __future__ import annotations

from collections.abc import Iterator
from time import monotonic

from scripted_core import ScriptedContext
from scripted_core.errors import ConfigError
from scripted_core.kv_report import KvCount

from scripted_canary.expect import check_wanted, in_words, is_reported
from scripted_canary.script_tools import canary_of

_PREFILL = "prefill"
_DECODE = "decode"


def assert_per_forward_violation_reported(
    t: ScriptedContext,
    *,
    fail_reason: str,
    target_group: str | None = None,
    side: str | None = None,
    flush_wait_seconds: float = 2.0,
) -> Iterator[None]:
    """A forward of this script has found a violation of this reason, or finds one.

    It steps until there is one, the engine is idle or the time is over. ``target_group`` is a kind of
    pool (``full``, ``window``, ``draft``); ``side`` is ``prefill`` or ``decode``. Raises
    ``AssertionError`` with what was found instead, and ``ConfigError`` for a reason, kind or side that
    there is not.
    """
    check_wanted(fail_reason, target_group, (one.pool for one in _found(t, side)))
    deadline = monotonic() + flush_wait_seconds
    while not is_reported(_found(t, side), fail_reason=fail_reason, target_group=target_group):
        if t.is_fully_idle or monotonic() >= deadline:
            raise AssertionError(f"no forward has reported {fail_reason}; {_in_words(t, side)}")
        yield


def assert_no_violation(
    t: ScriptedContext, *, side: str | None = None, wait_seconds: float = 2.0
) -> Iterator[None]:
    """Nothing was found in this script, and nothing is until the engine is idle or the time is over.

    Raises ``AssertionError`` with what was found.
    """
    deadline = monotonic() + wait_seconds
    while True:
        if any(one.total for one in _found(t, side)):
            raise AssertionError(f"violations where none should be; {_in_words(t, side)}")
        if t.is_fully_idle or monotonic() >= deadline:
            return
        yield


def _found(t: ScriptedContext, side: str | None) -> list[KvCount]:
    """What was found in this script, of one side or of both."""
    counts = canary_of(t).found_in_script()
    sides = {_side_of(one.pool) for one in counts}
    if side is None:
        return list(counts)
    if side not in sides:
        raise ConfigError(
            f"side={side!r} has no pool in this process",
            hint="run a pair in one process, or ask its server (scripted_canary.servers)",
        )
    return [one for one in counts if _side_of(one.pool) == side]


def _side_of(pool: str) -> str:
    return _PREFILL if pool.partition("@")[2] == _PREFILL else _DECODE


def _in_words(t: ScriptedContext, side: str | None) -> str:
    records = [
        one.as_record()
        for one in canary_of(t).violations.last(canary_of(t).violations.capacity)
        if side is None or _side_of(one.pool) == side
    ]
    return in_words(_found(t, side), records)
