"""Recorded scripts: what a run did iteration by iteration, kept, compared and played again.

For the tests of whatever looks at runs (a reporter, a view): it needs no engine to be given one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec

from scripted_core.errors import ConfigError
from scripted_core.ports import InProcessEngine
from scripted_core.trace import StepListener, StepTrace

_FORMAT = 1
_MAX_ITERATIONS = 5000


class ScriptRecording(msgspec.Struct, frozen=True, kw_only=True):
    """One run of one script.

    ``steps`` are its iterations, ``error`` the text of what ended it (empty when it passed), ``digest``
    that of its events.
    """

    script: str
    engine: str
    steps: tuple[StepTrace, ...]
    error: str = ""
    digest: str = ""
    format: int = _FORMAT

    @property
    def passed(self) -> bool:
        """Whether it ended by itself and well."""
        return not self.error

    def save(self, file: Path) -> None:
        """Write it as JSON."""
        file.write_bytes(msgspec.json.format(msgspec.json.encode(self), indent=1) + b"\n")

    @classmethod
    def load(cls, file: Path) -> ScriptRecording:
        """Read one back; ``ConfigError`` for a file that is none, or of another format."""
        try:
            found = msgspec.json.decode(file.read_bytes(), type=cls)
        except (OSError, msgspec.MsgspecError) as error:
            raise ConfigError(
                f"{file} is no recording of a script: {error}", hint="write one with save()"
            ) from error
        if found.format != _FORMAT:
            raise ConfigError(
                f"{file} is a recording of format {found.format}, this reads {_FORMAT}",
                hint="record the script again",
            )
        return found


def record_script(
    engine: InProcessEngine,
    script: Callable[..., Any],
    *,
    args: Sequence[Any] = (),
    seed: int = 0,
    check_invariants: bool = True,
) -> ScriptRecording:
    """Run ``script(t, *args)`` on an engine with a hook, such as a connected ``FakeEngine``.

    A script that fails is recorded too. Raises ``ConfigError`` for one that does not end within 5,000
    iterations.
    """
    hook = engine.hook
    hook.start_job(
        name=script.__qualname__,
        function=script,
        args=args,
        seed=seed,
        check_invariants=check_invariants,
        want_trace=True,
    )
    for _ in range(_MAX_ITERATIONS):
        if hook.outcome is not None:
            break
        engine.iterate()
    outcome = hook.outcome
    if outcome is None:
        state = hook.describe_state()
        hook.abandon()
        raise ConfigError(
            f"{script.__qualname__} did not end within {_MAX_ITERATIONS} iterations\n{state}",
            hint="a recorded script has to come to its end",
        )
    error = "" if outcome.error is None else f"{type(outcome.error).__name__}: {outcome.error}"
    return ScriptRecording(
        script=script.__qualname__,
        engine=hook.engine.name,
        steps=outcome.trace,
        error=error,
        digest="" if error else hook.event_digest(),
    )


def replay(recording: ScriptRecording, *, on_step: StepListener) -> None:
    """Tell ``on_step`` of each iteration in its order, as a session does while a script runs."""
    for step in recording.steps:
        on_step(step)
