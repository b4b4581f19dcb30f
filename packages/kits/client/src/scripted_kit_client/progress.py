"""How long work shows that it goes on: a bar on a terminal, nothing in a pipe."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from typing import Protocol


class Progress(Protocol):
    """A bar that is told of work done."""

    def begin(self, what: str, total: float | None) -> None:
        """Something new has begun; `total` is `None` when nobody knows how much it is."""
        ...

    def done(self, amount: float) -> None:
        """So much of it is done, from its beginning."""
        ...


class NoProgress:
    """Shows nothing."""

    def begin(self, what: str, total: float | None) -> None:
        """Nothing."""

    def done(self, amount: float) -> None:
        """Nothing."""


@contextlib.contextmanager
def bar() -> Iterator[Progress]:
    """A bar on stderr when that is a terminal."""
    if not sys.stderr.isatty():
        yield NoProgress()
        return
    from rich.console import Console
    from rich.progress import BarColumn, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as RichProgress

    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with RichProgress(*columns, console=Console(stderr=True), transient=True) as shown:
        yield _Bar(shown)


class _Bar:
    def __init__(self, shown: object) -> None:
        from rich.progress import Progress as RichProgress

        assert isinstance(shown, RichProgress)
        self._shown = shown
        self._task = shown.add_task("", total=None)

    def begin(self, what: str, total: float | None) -> None:
        self._shown.reset(self._task, description=what, total=total)

    def done(self, amount: float) -> None:
        self._shown.update(self._task, completed=amount)
