"""The scripts that travel to an engine's process: a file of their own, which nothing else imports there.

A script's file is loaded by itself, before the package that it is in.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

from scripted_core import ScriptedContext

from scripted_explore import play as plays
from scripted_explore.facts import Facts
from scripted_explore.operations import AnyOp
from scripted_explore.program import Expected
from scripted_explore.report import RunReport


def played(
    t: ScriptedContext,
    ops: tuple[AnyOp, ...] | str,
    expected: Expected,
    facts: Facts | str,
    report: RunReport | str,
) -> Generator[None, None, None]:
    """Play a program's operations; see ``play.play``."""
    yield from plays.play(t, ops, expected, facts, report)


def undisturbed(
    t: ScriptedContext, keys: list[list[int]], report: RunReport | str
) -> Generator[None, Any, None]:
    """Learn what prompts put out undisturbed; see ``play.undisturbed``."""
    yield from plays.undisturbed(t, keys, report)
