"""One script after the other over a wire, under three deadlines: death, stall, and the script's own."""

from __future__ import annotations

import time
from collections.abc import Callable

import zmq

from scripted_core.errors import EngineError, ScriptStalled
from scripted_core.logs import get_logger
from scripted_core.sessions.engine_end import EngineEnd
from scripted_core.sessions.lifecycle import Deadline
from scripted_core.trace import StepListener
from scripted_core.wire.messages import (
    Message,
    OutOfBandError,
    RunScript,
    ScriptFailed,
    ScriptSucceeded,
    StepsEnded,
)

_log = get_logger("scripted.session")
_WATCH_INTERVAL_S = 0.25


class Conversation:
    """Every wait polls the wire *and* what tells of the engine's end.

    ``died`` makes the error for an end that it is told in words.
    """

    def __init__(
        self,
        engine: EngineEnd,
        *,
        stall_timeout_s: float,
        died: Callable[[str], EngineError],
    ) -> None:
        self._engine = engine
        self._stall_timeout_s = stall_timeout_s
        self._died = died

    def run(
        self, request: RunScript, *, deadline: Deadline, on_step: StepListener | None
    ) -> ScriptSucceeded | ScriptFailed:
        """Send a script and wait for its end; raises the engine's death, a stall, a timeout."""
        self._raise_if_died()
        self._engine.send(request)
        ticks, moved_at = self._engine.progress()[0], time.monotonic()
        while True:
            message = self.next_message(_WATCH_INTERVAL_S)
            # A reply of an earlier script that was given up is stale: it is passed over.
            if isinstance(message, (ScriptSucceeded, ScriptFailed)):
                if message.request_id == request.request_id:
                    return message
                _log.warning("stale reply passed over", request_id=message.request_id)
            if (
                isinstance(message, StepsEnded)
                and message.request_id == request.request_id
                and on_step
            ):
                for ended in message.steps:
                    on_step(ended)
            now = time.monotonic()
            seen, step = self._engine.progress()
            if seen != ticks:
                ticks, moved_at = seen, now
            elif now - moved_at > self._stall_timeout_s:
                raise self._stalled(now - moved_at, step=step)
            if deadline.passed:
                raise deadline.error(f"it was at step {step}\n\n{self._engine.all_stacks()}")

    def _stalled(self, quiet_s: float, *, step: int) -> ScriptStalled:
        return ScriptStalled(
            f"no iteration ended for {quiet_s:.1f} s (the last was step {step})\n\n"
            f"{self._engine.all_stacks()}\n\nlog tail:\n{self._engine.log_tail()}",
            hint="each iteration of the script has to reach its next yield; see the stacks",
        )

    def next_message(self, timeout_s: float) -> Message | None:
        """The next message, or ``None`` after ``timeout_s``; raises when the engine has ended."""
        poller = zmq.Poller()
        for one in self._engine.pollables():
            poller.register(one, zmq.POLLIN)
        poller.poll(int(timeout_s * 1000))
        message = self._engine.receive()
        if isinstance(message, OutOfBandError):
            raise self._died(self._cause(message))
        if message is None:
            self._raise_if_died()
        return message

    def _raise_if_died(self) -> None:
        ended = self._engine.ended()
        if ended is None:
            return
        # A rank that broke reports why before it ends, which says more than the exit.
        report = self._engine.receive()
        if isinstance(report, OutOfBandError):
            raise self._died(self._cause(report))
        raise self._died(ended)

    def _cause(self, report: OutOfBandError) -> str:
        """What a rank reports, behind what has ended by now.

        A rank whose neighbour was killed breaks at once, and reports a lost connection.
        """
        ended = self._engine.ended()
        return report.text if ended is None else f"{ended}\n\n{report.text}"
