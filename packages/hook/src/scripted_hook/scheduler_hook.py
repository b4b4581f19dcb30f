"""``ScriptedSchedulerHook``: one call of ``step()`` for each scheduler iteration.

``step()`` is called at the start of an iteration, before the engine receives. It closes the books
of the iteration before (counts, invariants, plugins), then gives the script one ``next()``.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator, Mapping, Sequence
from typing import Any

from scripted_core.context import ScriptedContext
from scripted_core.ops import Continue, ControlOp, ControlReceipt, MemoryOp, PairOp, ReleaseHeld
from scripted_core.pd_ports import PdPort
from scripted_core.ports import JobOutcome, port_of
from scripted_core.ranks import RankView
from scripted_core.requests import ClientStream, ReqSpec
from scripted_core.trace import StepListener
from scripted_core.views import FinishReason, ScriptedBatchRecord
from scripted_registry import get_plugin_manager

from scripted_hook.adapter import BatchFacts, EngineAdapter
from scripted_hook.books import Books
from scripted_hook.checks import InvariantChecks
from scripted_hook.job import Job, Servant, throw_into
from scripted_hook.ledger import Ledger
from scripted_hook.memory_ops import MemoryOperations
from scripted_hook.phase import Phase
from scripted_hook.plugin_calls import PluginCalls
from scripted_hook.rank import LoneRank, Rank
from scripted_hook.ranks import RankNotice
from scripted_hook.reset import idle_iterations, reset_engine
from scripted_hook.state_text import state_lines


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
        plugins = get_plugin_manager()
        self._plugins = PluginCalls(plugins)
        self.memory = MemoryOperations(self.adapter)
        self._books = Books(self.adapter)
        self._checks = InvariantChecks(
            adapter=self.adapter,
            ledger=self._books.ledger,
            events=self._books.events,
            memory=self.memory,
            plugins=plugins,
            several_ranks=self._rank.others > 0,
        )
        self._phase = Phase.FREE
        self._job: Job | None = None
        self._generator: Generator[Any, Any, Any] | None = None
        self._outcome: JobOutcome | None = None
        self._pending_error: BaseException | None = None
        self._warm = False
        self._progress = 0
        self._runs = 0
        self._step = 0
        self._settled = 0
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
        return self._books.ledger

    @property
    def batch_log(self) -> Sequence[ScriptedBatchRecord]:
        """Every batch since the last reset."""
        return self._books.batches.records

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
        return self._books.events.digest()

    def event_lines(self) -> list[str]:
        """The event log of the last script as text."""
        return self._books.events.lines()

    def submit(self, spec: ReqSpec) -> None:
        """Log a request, post it, and wait until it is in the inbox or was refused."""
        client = ClientStream()
        self._books.submitted(spec, client, step=self._step)
        refusal = self.adapter.submit(spec, client)
        if refusal is not None:
            self.finished(spec.rid, refusal, ())

    def post(
        self, op: ControlOp | PairOp, *, via_http: bool = False, await_arrival: bool = True
    ) -> ControlReceipt:
        """Log an operation and post it to the engine."""
        self._books.posted(op, step=self._step)
        if isinstance(op, PairOp):
            assert isinstance(self.adapter, PdPort), f"{op} is for a prefill/decode pair"
            return self.adapter.control_pair(op)
        if via_http:
            return self.adapter.control_http(op, await_arrival=await_arrival)
        return self.adapter.control(op)

    def pollables(self) -> tuple[Any, ...]:
        """Sockets of the test side, for an idle loop that waits for something to do."""
        wire = () if self._servant is None else self._servant.pollables()
        return (*wire, *self._rank.pollables())

    @property
    def may_rest(self) -> bool:
        """Whether an idle loop may wait for input on ``pollables()``: no script has hold of it."""
        return self._phase is Phase.FREE and not self._rank.is_held and bool(self.pollables())

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
            if self._phase is Phase.SCRIPT:
                self._step += 1
            if self._servant is not None:
                self._servant.tick(job, self._step)
            if self._phase is Phase.SCRIPT:
                self._close_iteration(job)
            elif self._phase is Phase.SETTLE:
                self._settle_iteration(job)
            self._advance(job)
            if self._job is job:
                self._lead(job)
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt) and self._servant is None:
                raise  # somebody's Ctrl-C; in an engine's own process it can only be the script's
            self._finish(job, error)

    def _lead(self, job: Job) -> None:
        """Let other engines run their part of the iteration that is about to begin here."""
        check = job.check_invariants and self._phase is Phase.SCRIPT
        for facts in self._rank.before_iteration(check_invariants=check):
            self._record(facts)
        failure = self._rank.take_failure()
        if failure is not None:
            self._memory_op_failed(failure)

    def _advance(self, job: Job) -> None:
        assert self._generator is not None
        try:
            if self._pending_error is not None:
                error, self._pending_error = self._pending_error, None
                throw_into(self._generator, error)
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
                self._checks.at_the_end(step=self._step, ended=self._books.unchecked_ends)
            self._finish(job, None)

    def _start_script(self, job: Job) -> None:
        self._books.begin(job)
        context = ScriptedContext(
            scheduler_hook=self, tokenizer_recv_proxy=self._proxy, http_poster=self._poster
        )
        self._context = context
        self._plugins.on_reset(context)
        self._rank.begin(run=self._runs, check_invariants=job.check_invariants)
        self._phase = Phase.SCRIPT
        self._generator = job.begin(context)
        self._advance(job)

    def _close_iteration(self, job: Job) -> None:
        self._books.close_iteration(self._step, may_be_quiet=self._checks.may_be_quiet())
        self._plugins.on_step(self._step)
        elsewhere = self._rank.after_iteration(self._step, compare=job.check_invariants)
        if job.check_invariants:
            leak = self._checks.after_iteration(
                step=self._step, quiet_steps=self._books.batches.quiet_steps, elsewhere=elsewhere
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
            self._rank.saw_batch(batch)
            return
        self._record(self.adapter.describe_batch(batch))

    def _record(self, facts: BatchFacts) -> None:
        if self._phase is not Phase.SCRIPT:
            return
        record = self._books.batch(facts, step=self._step + 1)
        self._pending_error = self._plugins.on_batch(record) or self._pending_error

    def finished(self, rid: str, reason: FinishReason, output_ids: Sequence[int]) -> None:
        """The engine reports the end of a request."""
        if self._phase is Phase.SCRIPT:
            self._books.finished(rid, reason, output_ids, step=self._step)

    def apply_memory_op(self, op: MemoryOp) -> None:
        """A memory operation came out of the inbox: apply it, and keep a failure for the script."""
        try:
            self.memory.apply(op)
        except Exception as error:
            if not self._rank.keeps_failure(error, step=self._step + 1):
                self._memory_op_failed(error)

    def _memory_op_failed(self, error: Exception) -> None:
        if self._phase is not Phase.SCRIPT:
            raise error
        self._pending_error = error

    # -- end -----------------------------------------------------------------------------------

    def _finish(self, job: Job, error: BaseException | None) -> None:
        self._outcome = job.outcome(
            error, hook=self, trace=self._books.trace, checks=self._checks.done
        )
        if error is not None:
            self._close_script()
        self._end_hold()
        if self._servant is not None:
            digest = self._books.events.digest() if error is None else ""
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
        return "\n".join(state_lines(self.adapter, self._books, step=self._step, phase=self._phase))
