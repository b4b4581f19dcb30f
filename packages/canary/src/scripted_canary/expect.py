"""What tests expect of a canary, in the seeds' words: which violations count, and how a miss is told."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from scripted_core.errors import ConfigError
from scripted_core.kv_report import KvCount, KvRecord

from scripted_canary.violations import Launch, Reason


def kind_of(pool: str) -> str:
    """The kind of a pool: ``full`` of ``full@prefill``."""
    return pool.partition("@")[0]


def check_wanted(fail_reason: str, target_group: str | None, pools: Iterable[str]) -> None:
    """Raise ``ConfigError`` for a reason or a kind of pool that there is not."""
    reasons = [one.value for one in Reason]
    if fail_reason not in reasons:
        raise ConfigError(
            f"fail_reason={fail_reason!r} is nothing that a canary finds",
            hint=f"use one of {', '.join(reasons)}",
        )
    kinds = sorted({kind_of(pool) for pool in pools})
    if target_group is not None and target_group not in kinds:
        raise ConfigError(
            f"target_group={target_group!r} is no kind of pool here",
            hint=f"use one of {', '.join(kinds)}, or leave it out",
        )


def is_reported(counts: Iterable[KvCount], *, fail_reason: str, target_group: str | None) -> bool:
    """Whether a forward, not a sweep, has found a violation of this reason in such a pool."""
    return any(
        one.total
        and one.reason == fail_reason
        and one.launch == Launch.FORWARD
        and target_group in (None, kind_of(one.pool))
        for one in counts
    )


def in_words(counts: Sequence[KvCount], last: Sequence[KvRecord]) -> str:
    """What was found, for people."""
    found = [one for one in counts if one.total]
    if not found:
        return "nothing was found"
    kinds = ", ".join(f"{one.total} {one.reason} in {one.pool} by a {one.launch}" for one in found)
    newest = "".join(
        f"\n  {one.reason}: slot {one.slot} of {one.pool}, position {one.position} of "
        f"{one.rid or 'the prefix tree'}, forward {one.step}"
        for one in last[-3:]
    )
    return f"found: {kinds}{newest}"
