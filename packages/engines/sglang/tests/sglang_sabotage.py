"""Breaks one rank of an engine from within: a plugin of tests, loaded in the engine's processes."""

from __future__ import annotations

import os
import signal
import threading
from typing import Any

from scripted_core.ports import port_of
from scripted_registry import ExhausterSpec, hookimpl

SCRIPTED_API = 1


class Sabotage:
    """An exhauster, since those are what reaches every rank in the same iteration."""

    def __init__(self, scheduler: Any) -> None:
        self._scheduler = scheduler
        self._rank = port_of(scheduler).rank  # type: ignore[attr-defined]

    def exhaust(self, *, what: str, rank: str | None = None) -> None:
        """Do ``what`` on ``rank``, and nothing on any other; without a rank on all."""
        if rank in (None, self._rank):
            getattr(self, what)()

    def release(self) -> None:
        """What is broken stays so, but for this."""
        port_of(self._scheduler).pipeline.emulates = True  # type: ignore[attr-defined]

    def leave_pause_to_sglang(self) -> None:
        """Let SGLang's own loop deal with a pause."""
        port_of(self._scheduler).pipeline.emulates = False  # type: ignore[attr-defined]

    def leak(self) -> None:
        """Take a page that nobody owns."""
        scheduler = self._scheduler
        scheduler.token_to_kv_pool_allocator.alloc(scheduler.page_size)

    def refuse(self) -> None:
        """Fail at the operation."""
        raise RuntimeError("this rank refuses")

    def hold_a_row(self) -> None:
        """Have one row less than the others, properly declared."""
        port_of(self._scheduler).rows.hold(1)  # type: ignore[union-attr]

    def fail_at_the_next_batch(self) -> None:
        """Let the next forward raise."""

        def run_batch(*args: Any, **kwargs: Any) -> Any:
            raise RuntimeError("a kernel of this rank is broken")

        self._scheduler.run_batch = run_batch

    def hang(self) -> None:
        """Never come back."""
        threading.Event().wait()

    def die(self) -> None:
        """End without a word."""
        os.kill(os.getpid(), signal.SIGKILL)


@hookimpl
def scripted_register_exhausters() -> list[ExhausterSpec]:
    """The one."""
    return [ExhausterSpec(name="sabotage", summary="breaks one rank", factory=Sabotage)]
