"""The wire's end in the driver rank: scripts come in by reference, outcomes go out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from scripted_core.errors import HandshakeError, TransportError
from scripted_core.logs import get_logger, set_log_context
from scripted_core.ports import JobOutcome
from scripted_core.scripts import ScriptLoader
from scripted_core.sessions.outcome import to_message
from scripted_core.trace import StepListener
from scripted_core.wire.messages import (
    PROTOCOL_VERSION,
    HookReady,
    RunScript,
    ScriptSucceeded,
    Shutdown,
)
from scripted_core.wire.plain import from_plain
from scripted_core.wire.progress import ProgressWriter
from scripted_core.wire.transport import Channel

from scripted_hook.adapter import EngineAdapter
from scripted_hook.job import Job, script_traceback
from scripted_hook.server_facts import DescribesServer, plain_arguments
from scripted_hook.step_stream import StepStream

_log = get_logger("scripted.hook")


class WireServant:
    """Polls the wire once for each free iteration.

    The handshake is sent at the second one: by then every hook of a whole iteration has fired.
    """

    def __init__(
        self,
        *,
        channel: Channel,
        progress: ProgressWriter,
        adapter: Callable[[], EngineAdapter],
    ) -> None:
        self._channel = channel
        self._progress = progress
        self._adapter = adapter
        self._loader = ScriptLoader()
        self._iterations = 0

    def next_job(self) -> Job | None:
        """Shake hands when the time has come; then the next script that can be loaded."""
        if self._iterations < 2:
            self._iterations += 1
            if self._iterations == 2:
                self._send_ready()
            return None
        try:
            message = self._channel.receive()
        except HandshakeError as error:  # a stranger's frame must not end the scheduler
            _log.warning("bad frame passed over", error=str(error))
            return None
        if message is None:
            return None
        if isinstance(message, RunScript):
            return self._job_of(message)
        if not isinstance(message, Shutdown):
            _log.warning("unexpected message", message=type(message).__name__)
        return None

    def tick(self, job: Job, step: int) -> None:
        """A sign of life that the test side can read without our help.

        Raises ``TransportError`` when nobody waits for the script any more.
        """
        self._progress.tick(job.request_id, step)
        if self._progress.abandoned == job.request_id:
            raise TransportError(f"the test client of {job.name} has gone: it is given up")
        set_log_context(script=job.name, step=step)

    def pollables(self) -> tuple[Any, ...]:
        """The wire; nothing before the handshake, which must not wait."""
        return self._channel.pollables() if self._iterations >= 2 else ()

    def deliver(self, job: Job, outcome: JobOutcome, digest: str) -> None:
        """Send the outcome of a job."""
        _log.debug("script ended", error=repr(outcome.error), steps=outcome.steps)
        set_log_context(script=None, step=None)
        if outcome.error is None:
            self._channel.send(
                ScriptSucceeded(
                    job.request_id, outcome.steps, digest, outcome.trace, outcome.checks
                )
            )
        else:
            self._channel.send(to_message(job.request_id, outcome))

    def close(self) -> None:
        """Close the wire."""
        self._channel.close()
        self._progress.close()

    def _send_ready(self) -> None:
        adapter = self._adapter()
        self._channel.send(
            HookReady(
                protocol_version=PROTOCOL_VERSION,
                engine=adapter.name,
                engine_version=adapter.version,
                capabilities=tuple(sorted(adapter.capabilities)),
                pids=dict(adapter.pids()),
                hooks_fired=adapter.hooks_fired(),
                base_url=adapter.base_url() if isinstance(adapter, DescribesServer) else "",
                arguments=plain_arguments(adapter.server_arguments())
                if isinstance(adapter, DescribesServer)
                else {},
            )
        )

    def _job_of(self, request: RunScript) -> Job | None:
        def plain(data: Any) -> Any:
            return from_plain(data, resolve_type=self._loader.resolve_type)

        try:
            # The module first: types of arguments may be defined in it.
            function = self._loader.load(request.script)
            args, kwargs = plain(request.args), plain(request.kwargs)
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # a module may skip or exit, a dataclass refuse its fields
            outcome = JobOutcome(
                error=error, traceback_text=script_traceback(error), last_state="", steps=0
            )
            self._channel.send(to_message(request.request_id, outcome))
            return None
        return Job(
            name=request.script.qualname,
            function=function,
            args=args,
            kwargs=kwargs,
            check_invariants=request.check_invariants,
            seed=request.seed,
            request_id=request.request_id,
            want_trace=request.want_trace,
            on_step=self._stream_of(request) if request.stream_steps else None,
        )

    def _stream_of(self, request: RunScript) -> StepListener:
        return StepStream(channel=self._channel, request_id=request.request_id).add
