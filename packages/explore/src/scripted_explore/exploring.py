"""`explore()`: a campaign as a call, which a test makes and which fails as a test does."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scripted_core.errors import ConfigError

from scripted_explore.errors import ProgramFailed
from scripted_explore.sometimes import Sometimes

if TYPE_CHECKING:
    from scripted_explore.campaign import Outcome


def explore(
    *,
    backend: str = "reference",
    topologies: Iterable[str] = (),
    steps: int | None = None,
    minutes: float | None = None,
    seed: int = 0,
    engine_kwargs: Mapping[str, Any] | None = None,
    demand: Iterable[Sometimes] = (),
    findings: Path | None = None,
    shrink_timeout_s: float = 60.0,
) -> Outcome:
    """Explore in this process for so many checked iterations or minutes; return what was seen.

    Raises ``ProgramFailed`` with every finding, each also written into the folder ``findings`` as a
    test if one is given, and when a state of ``demand`` was never met. ``ConfigError`` without a limit.
    """
    from scripted_explore.campaign import Campaign, Task
    from scripted_explore.written import file_text, write_test

    if (steps is None) == (minutes is None):
        raise ConfigError(
            "explore() needs either steps or minutes", hint="for example steps=20_000"
        )
    task = Task(
        backend=backend,
        topologies=tuple(topologies),
        kwargs=dict(engine_kwargs or {}),
        seed=seed,
        max_steps=steps,
        max_seconds=None if minutes is None else 60 * minutes,
        shrink_timeout_s=shrink_timeout_s,
    )
    outcome = Campaign(task).run()
    texts = []
    for finding in outcome.findings:
        where = ""
        if findings is not None:
            with contextlib.suppress(OSError):
                where = f"\nwritten to {write_test(finding, findings)}"
        texts.append(f"{finding.signature}\n{finding.text}{where}\n\n{file_text(finding)}")
    missed = [one for one in demand if not outcome.report.sometimes.get(one.value)]
    if missed:
        texts.append(
            f"never met in {outcome.report.steps} iterations: {', '.join(one.value for one in missed)}"
        )
    if texts:
        raise ProgramFailed("\n\n".join(texts), hint="see docs/explore.md")
    return outcome
