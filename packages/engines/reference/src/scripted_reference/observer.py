"""What the engine tells whoever watches it: the seam that a scripted runtime attaches to."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from scripted_reference.request import Req
from scripted_reference.schedule_batch import ScheduleBatch


class SchedulerObserver(Protocol):
    """Called by the scheduler on its own thread.

    `before_receive` may raise: the iteration then ends before it began. The others must not, since
    the iteration is half done when they are called.
    """

    def before_receive(self) -> None:
        """An iteration begins; what is posted to the inbox now is received in it."""

    def on_run_batch(self, batch: ScheduleBatch) -> None:
        """A batch is scheduled and prepared, and goes to the model next."""

    def on_output(self, reqs: Sequence[Req]) -> None:
        """These requests have a new output token each.

        Called once for each batch whose result is processed, before `on_finish` of any of them.
        """

    def on_finish(self, req: Req) -> None:
        """A request has ended, once: its final state, its memory given back."""


class NoObserver:
    """Watches nothing."""

    def before_receive(self) -> None:
        """Do nothing."""

    def on_run_batch(self, batch: ScheduleBatch) -> None:
        """Do nothing."""

    def on_output(self, reqs: Sequence[Req]) -> None:
        """Do nothing."""

    def on_finish(self, req: Req) -> None:
        """Do nothing."""
