"""One script run in the engine: what was asked, and how it ended."""

from __future__ import annotations

import contextlib
import traceback
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Protocol

from scripted_core.errors import LeakDetected, PluginError
from scripted_core.ports import JobOutcome, SchedulerHookPort
from scripted_core.trace import NOTHING_CHECKED, ChecksDone, StepListener, StepTrace

_HOOK_MODULES = ("scripted_hook.", "scripted_core.sessions.")


@dataclass
class Job:
    """A script to run; ``request_id`` is 0 for one that did not come over a wire."""

    name: str
    function: Callable[..., Any]
    args: Sequence[Any] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    check_invariants: bool = True
    seed: int = 0
    request_id: int = 0
    want_trace: bool = False
    on_step: StepListener | None = None

    def begin(self, context: Any) -> Generator[Any, Any, Any]:
        """Call the script function; ``TypeError`` when what it returns is no generator."""
        started = self.function(context, *self.args, **self.kwargs)
        if not isinstance(started, Generator):
            raise TypeError(
                f"script {self.name} returned a {type(started).__name__}, not a generator: "
                "a script has at least one yield"
            )
        return started

    def outcome(
        self,
        error: BaseException | None,
        *,
        hook: SchedulerHookPort,
        trace: tuple[StepTrace, ...],
        checks: ChecksDone,
    ) -> JobOutcome:
        """How the run has ended in ``hook``, before it lets go of the engine."""
        return JobOutcome(
            error=error,
            traceback_text="" if error is None else script_traceback(error),
            last_state="" if error is None else hook.describe_state(),
            steps=hook.step_index,
            trace=trace,
            checks=checks if self.check_invariants else NOTHING_CHECKED,
        )


class Servant(Protocol):
    """Brings jobs from a test side in another process, and takes their outcomes there."""

    def next_job(self) -> Job | None:
        """The next job, or ``None``; called once for each free iteration."""
        ...

    def tick(self, job: Job, step: int) -> None:
        """One more iteration of ``job`` has begun."""
        ...

    def pollables(self) -> tuple[Any, ...]:
        """What becomes readable when there may be a job."""
        ...

    def deliver(self, job: Job, outcome: JobOutcome, digest: str) -> None:
        """Send the outcome."""
        ...


def throw_into(script: Generator[Any, Any, Any], error: BaseException) -> None:
    """Raise ``error`` at the script's ``yield``; a violation ends it even if it is caught."""
    if not isinstance(error, (LeakDetected, PluginError)):
        script.throw(error)
        return
    with contextlib.suppress(StopIteration):
        script.throw(error)
    raise error


def script_traceback(error: BaseException) -> str:
    """The traceback of ``error`` from the script's own first frame on."""
    error = error.with_traceback(_below_hook(error.__traceback__))
    return "".join(traceback.format_exception(error))


def _below_hook(tb: TracebackType | None) -> TracebackType | None:
    first = tb
    while tb is not None:
        module = tb.tb_frame.f_globals.get("__name__", "")
        if not module.startswith(_HOOK_MODULES):
            return tb
        tb = tb.tb_next
    return first
