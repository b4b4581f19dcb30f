"""``ScriptedSchedulerHook``: one call of ``step()`` for each scheduler iteration.

``step()`` is called at the start of an iteration, before the engine receives. It closes the books
of the iteration before (counts, invariants, plugins), then gives the script one ``next()``.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator, Mapping, Sequence
from enum import StrEnum
from typing import Any

from scripted_core.context import ScriptedContext
from scripted_core.errors import LeakDetected, PluginError, ScriptedError
from scripted_core.ops import (
    Continue,
    ControlOp,
    ControlReceipt,
    MemoryOp,
    OnSide,
    PairOp,
    ReleaseHeld,
    Transfer,
)
from scripted_core.pd_ports import PdPort
from scripted_core.ports import JobOutcome, port_of
from scripted_core.ranks import RankView
from scripted_core.requests import ClientStream, ReqSpec
from scripted_core.trace import NOTHING_CHECKED, StepListener
from scripted_core.views import FinishReason, ScriptedBatchRecord
from scripted_registry import get_plugin_manager

from scripted_hook.adapter import EngineAdapter
from scripted_hook.batch_log import BatchLog
from scripted_hook.checks import InvariantChecks
from scripted_hook.events import EventLog
from scripted_hook.job import Job, Servant, script_traceback
from scripted_hook.ledger import Ledger
from scripted_hook.memory_ops import MemoryOperations
from scripted_hook.plugin_calls import plugin_errors
from scripted_hook.rank import LoneRank, Rank
from scripted_hook.ranks import RankNotice
from scripted_hook.recorder import Recorder
from scripted_hook.reset import idle_iterations, reset_engine
from scripted_hook.state_text import state_lines


class Phase(StrEnum):
    """What the hook is doing with the engine."""

    FREE = "free"
    RESET = "reset"
    SCRIPT = "script"
    SETTLE = "settle"
    """The script is over; later pipeline stages have yet to end its last iterations."""


class ScriptedSchedulerHook:
    """Runs scripts inside one scheduler process.

    ``adapter`` defaults to the port that is bound to ``scheduler``. ``servant`` is ``None`` in an
    in-process session and on ranks other than the driver. ``rank`` is what this one does beside others
    (default: it is alone).
    """

    def __init__(
        self,
        *,
        scheduler: Any,
        tokenizer_recv_proxy: Any | None,
        adapter: EngineAdapter | None = None,
        http_poster: Any | None = None,
        servant: Servant | None = None,
        rank: Rank | None = None,
    ) -> None:
        # Whatever is bound to a scheduler of an adapter's own is that adapter.
        self.adapter: EngineAdapter = adapter or port_of(scheduler)  # type: ignore[assignment]
        self._proxy = tokenizer_recv_proxy
        self._poster = http_poster
        self._servant = servant
        self._rank = rank or LoneRank(self.adapter)
        self._plugins = get_plugin_manager()
        self._on_step_used = self._plugins.has_impls("scripted_on_step")
        self._on_batch_used = self._plugins.has_impls("scripted_on_batch")
        self.memory = MemoryOperations(self.adapter)
        self._ledger = Ledger(live_output_ids=self._live_output_ids)
        self._events = EventLog()
        self._checks = InvariantChecks(
            adapter=self.adapter,
            ledger=self._ledger,
            events=self._events,
            memory=self.memory,
            plugins=self._plugins,
            several_ranks=self._rank.others > 0,
        )
        self._batches = BatchLog()
        self._phase = Phase.FREE
        self._job: Job | None = None
        self._generator: Generator[Any, Any, Any] | None = None
        self._outcome: JobOutcome | None = None
        self._pending_error: BaseException | None = None
        self._warm = False
        self._progress = 0
        self._runs = 0
        self._step = 0
        self._unchecked_ends: list[str] = []
        self._settled = 0
        self._recorder: Recorder | None = None
        self._context: ScriptedContext | None = None
        self.adapter.attach(self)

    # -- what a context and a session see ------------------------------------------------------

    @property
    def scheduler(self) -> Any:
        """The engine's own scheduler."""
        return self.adapter.scheduler

    @property
    def engine(self) -> EngineAdapter:
        """The engine behind the hook."""
        return self.adapter

    @property
    def ledger(self) -> Ledger:
        """Counts per request."""
        return self._ledger

    @property
    def batch_log(self) -> Sequence[ScriptedBatchRecord]:
        """Every batch since the last reset."""
        return self._batches.records

    @property
    def step_index(self) -> int:
        """Iterations since the script's own first step."""
        return self._step

    @property
    def seed(self) -> int:
        """The session's seed."""
        return 0 if self._job is None else self._job.seed

    @property
    def run_index(self) -> int:
        """Number of this script in its session, from 1."""
        return self._runs

    @property
    def phase(self) -> Phase:
        """What the hook is doing."""
        return self._phase

    @property
    def outcome(self) -> JobOutcome | None:
        """``None`` while a script runs."""
        return self._outcome

    @property
    def progress(self) -> int:
        """Grows with every iteration of a job."""
        return self._progress

    def event_digest(self) -> str:
        """Digest of everything that happened in the last script, in order."""
        return self._events.digest()

    def event_lines(self) -> list[str]:
        """The event log of the last script as text."""
        return self._events.lines()

    def submit(self, spec: ReqSpec) -> None:
        """Log a request, post it, and wait until it is in the inbox or was refused."""
        client = ClientStream()
        self._ledger.submitted(spec, client)
        self._events.add("submit", self._step, spec)
        if self._recorder is not None:
            self._recorder.on_submit(spec.rid, len(spec.input_ids))
        refusal = self.adapter.submit(spec, client)
        if refusal is not None:
            self.finished(spec.rid, refusal, ())

    def post(
        self, op: ControlOp | PairOp, *, via_http: bool = False, await_arrival: bool = True
    ) -> ControlReceipt:
        """Log an operation and post it to the engine."""
        self._events.add("op", self._step, op)
        if self._recorder is not None:
            self._recorder.on_op(op)
        if isinstance(op, (OnSide, Transfer)):
            assert isinstance(self.adapter, PdPort), f"{op} is for a prefill/decode pair"
            return self.adapter.control_pair(op)
        if via_http:
            return self.adapter.control_http(op, await_arrival=await_arrival)
        return self.adapter.control(op)

    def pollables(self) -> tuple[Any, ...]:
        """Sockets of the test side, for an idle loop that waits for something to do."""
        return () if self._servant is None else self._servant.pollables()

    # -- jobs ----------------------------------------------------------------------------------

    def start_job(
        self,
        *,
        name: str,
        function: Callable[..., Any],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
        check_invariants: bool = True,
        seed: int = 0,
        want_trace: bool = False,
        on_step: StepListener | None = None,
    ) -> None:
        """Take hold at the coming iteration boundary, reset, then run the script."""
        self._begin(
            Job(
                name=name,
                function=function,
                args=args,
                kwargs=kwargs or {},
                check_invariants=check_invariants,
                seed=seed,
                want_trace=want_trace,
                on_step=on_step,
            )
        )

    def abandon(self) -> None:
        """Drop the running script without resuming it; the engine is free afterwards."""
        self._close_script()
        self._end_hold()

    def _close_script(self) -> None:
        # What a script does against its end, or fails at in its own clean-up, would only hide why
        # it has to end.
        if self._generator is not None:
            with contextlib.suppress(Exception):
                self._generator.close()

    def _begin(self, job: Job) -> None:
        self._job = job
        self._outcome = None
        self._pending_error = None
        self._runs += 1
        self._phase = Phase.RESET
        self._step = 0
        self._checks.begin()
        self.adapter.begin_hold()
        if not self._warm:
            self._warm = True
            self.adapter.drive_warmup()
        self._generator = reset_engine(self)  # type: ignore[assignment]

    # -- one iteration -------------------------------------------------------------------------

    def step(self) -> None:
        """One scheduler iteration is about to begin."""
        if self._rank.follow():
            return
        job = self._job
        if job is None:
            if self._servant is None:
                return
            job = self._servant.next_job()
            if job is None:
                return
        self._progress += 1
        try:
            if self._job is None:
                self._begin(job)
            if self._servant is not None:
                self._servant.tick(job, self._step)
            if self._phase is Phase.SCRIPT:
                self._step += 1
                self._close_iteration(job)
            elif self._phase is Phase.SETTLE:
                self._settle_iteration(job)
            self._advance(job)
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt) and self._servant is None:
                raise  # somebody's Ctrl-C; in an engine's own process it can only be the script's
            self._finish(job, error)

    def _advance(self, job: Job) -> None:
        assert self._generator is not None
        try:
            if self._pending_error is not None:
                error, self._pending_error = self._pending_error, None
                self._throw(self._generator, error)
            else:
                next(self._generator)
            return
        except StopIteration:
            pass  # outside the handler, so that what follows does not have it as its context
        if self._phase is Phase.RESET:
            self._start_script(job)
        elif self._phase is Phase.SCRIPT and self._rank.lag:
            self._settled = self._step
            self._phase = Phase.SETTLE
            self._generator = idle_iterations(self._rank.lag)
            self._advance(job)
        else:
            if job.check_invariants:
                self._checks.at_the_end(step=self._step, ended=self._unchecked_ends)
            self._finish(job, None)

    @staticmethod
    def _throw(generator: Generator[Any, Any, Any], error: BaseException) -> None:
        """Raise ``error`` at the script's ``yield``; a violation ends it even if it is caught."""
        if not isinstance(error, (LeakDetected, PluginError)):
            generator.throw(error)
            return
        with contextlib.suppress(StopIteration):
            generator.throw(error)
        raise error

    def _start_script(self, job: Job) -> None:
        self._ledger.clear()
        self._events.clear()
        self._events.add("seed", job.seed)
        self._batches = BatchLog()
        self._unchecked_ends = []
        wanted = job.want_trace or job.on_step is not None
        self._recorder = Recorder(self.adapter, on_step=job.on_step) if wanted else None
        context = ScriptedContext(
            scheduler_hook=self, tokenizer_recv_proxy=self._proxy, http_poster=self._poster
        )
        self._context = context
        with plugin_errors("scripted_on_reset"):
            self._plugins.hook.scripted_on_reset(context=context)
        self._rank.begin(run=self._runs, check_invariants=job.check_invariants)
        self._phase = Phase.SCRIPT
        self._generator = job.begin(context)
        self._advance(job)

    def _close_iteration(self, job: Job) -> None:
        for rid in self._batches.close_iteration(self.adapter.chunked_rids()):
            self._ledger.on_parked(rid)
        if self._checks.is_obstructed():
            self._batches.quiet_steps = 0
        if self._recorder is not None:
            self._recorder.close_iteration(self._step)
        if self._on_step_used:
            with plugin_errors("scripted_on_step"):
                self._plugins.hook.scripted_on_step(step=self._step)
        elsewhere = self._rank.after_iteration(self._step, compare=job.check_invariants)
        if job.check_invariants:
            leak = self._checks.after_iteration(
                step=self._step, quiet_steps=self._batches.quiet_steps, elsewhere=elsewhere
            )
            if leak is not None:
                self._pending_error = leak
        elif elsewhere:
            self._pending_error = self._checks.leak(elsewhere)

    # -- other ranks ---------------------------------------------------------------------------

    def rank_views(self) -> Sequence[RankView]:
        """Every rank of the engine, the driver first; see ``ScriptedContext.ranks``."""
        return self._rank.views(self._step)

    def _settle_iteration(self, job: Job) -> None:
        self._settled += 1
        found = self._rank.after_iteration(self._settled, compare=False)
        if found:
            raise self._checks.leak(found)

    def apply_rank_notice(self, notice: RankNotice) -> None:
        """A notice came out of the inbox of this rank; the driver has sent it and knows."""
        self._rank.notice(notice)

    # -- events from the engine ----------------------------------------------------------------

    def on_run_batch(self, batch: Any) -> None:
        """A batch is about to run; outside scripts it is not recorded."""
        if self._phase is not Phase.SCRIPT:
            return
        record = self._batches.add(self.adapter.describe_batch(batch), step=self._step + 1)
        self._events.add("batch", record)
        if record.extend_rids:
            self._ledger.on_batch(record)
        if self._recorder is not None:
            self._recorder.on_batch(record)
        if self._on_batch_used:
            try:
                with plugin_errors("scripted_on_batch"):
                    self._plugins.hook.scripted_on_batch(record=record)
            except ScriptedError as error:  # here it would end the engine's loop
                self._pending_error = error

    def finished(self, rid: str, reason: FinishReason, output_ids: Sequence[int]) -> None:
        """The engine reports the end of a request."""
        if self._phase is Phase.SCRIPT and self._ledger.finished(rid, reason, output_ids):
            self._batches.quiet_steps = 0
            self._unchecked_ends.append(rid)
            if self._recorder is not None:
                self._recorder.on_finish(rid, reason, len(output_ids))
            self._events.add("finish", self._step, rid, reason.kind.value, list(output_ids))

    def apply_memory_op(self, op: MemoryOp) -> None:
        """A memory operation came out of the inbox: apply it, and keep a failure for the script."""
        try:
            self.memory.apply(op)
        except Exception as error:
            if self._rank.keeps_failure(error, step=self._step + 1):
                return
            if self._phase is not Phase.SCRIPT:
                raise
            self._pending_error = error

    # -- end -----------------------------------------------------------------------------------

    def _finish(self, job: Job, error: BaseException | None) -> None:
        self._outcome = JobOutcome(
            error=error,
            traceback_text="" if error is None else script_traceback(error),
            last_state="" if error is None else self.describe_state(),
            steps=self._step,
            trace=() if self._recorder is None else self._recorder.steps,
            checks=self._checks.done if job.check_invariants else NOTHING_CHECKED,
        )
        if error is not None:
            self._close_script()
        self._end_hold()
        if self._servant is not None:
            digest = self._events.digest() if error is None else ""
            self._servant.deliver(job, self._outcome, digest)

    def _end_hold(self) -> None:
        if self._context is not None:
            self._context.end()
            self._context = None
        self._rank.end(run=self._runs)
        self._job = None
        self._generator = None
        self._phase = Phase.FREE
        # Free means that the engine serves others: nothing of the script may hold it up.
        if self.adapter.is_paused:
            self.adapter.control(Continue())
        if self.memory.holds_anything:
            self.adapter.control(ReleaseHeld())
        self.adapter.end_hold()

    def describe_state(self) -> str:
        """The last state in a few lines."""
        return "\n".join(
            state_lines(
                self.adapter,
                step=self._step,
                phase=self._phase.value,
                last_batch=self._batches.records[-1] if self._batches.records else None,
                ends=self._ledger.finishes,
            )
        )

    def _live_output_ids(self, rid: str) -> Sequence[int] | None:
        for live, output_ids in self.adapter.live_outputs():
            if live == rid:
                return output_ids
        return None
