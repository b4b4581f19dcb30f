"""What is written down of a script while it runs: counts, batches, events, and a trace if wanted."""

from __future__ import annotations

from collections.abc import Sequence

from scripted_core.ops import ControlOp, PairOp
from scripted_core.requests import ClientStream, ReqSpec
from scripted_core.trace import StepTrace
from scripted_core.views import FinishReason, ScriptedBatchRecord

from scripted_hook.adapter import BatchFacts, EngineAdapter
from scripted_hook.batch_log import BatchLog
from scripted_hook.events import EventLog
from scripted_hook.job import Job
from scripted_hook.ledger import Ledger
from scripted_hook.recorder import Recorder


class Books:
    """Everything that is told of a script goes through here, so that all of it agrees.

    ``unchecked_ends`` are the requests that have ended and whose clients are yet to be looked at.
    """

    def __init__(self, adapter: EngineAdapter) -> None:
        self._adapter = adapter
        self.ledger = Ledger(live_output_ids=self._live_output_ids)
        self.events = EventLog()
        self.batches = BatchLog()
        self.unchecked_ends: list[str] = []
        self._recorder: Recorder | None = None

    def begin(self, job: Job) -> None:
        """A script begins: nothing of the one before is left."""
        self.ledger.clear()
        self.events.clear()
        self.events.add("seed", job.seed)
        self.batches = BatchLog()
        self.unchecked_ends = []
        wanted = job.want_trace or job.on_step is not None
        self._recorder = Recorder(self._adapter, on_step=job.on_step) if wanted else None

    @property
    def trace(self) -> tuple[StepTrace, ...]:
        """Every iteration so far; empty when nobody wanted it."""
        return () if self._recorder is None else self._recorder.steps

    def submitted(self, spec: ReqSpec, client: ClientStream, *, step: int) -> None:
        """The script starts a request."""
        self.ledger.submitted(spec, client)
        self.events.add("submit", step, spec)
        if self._recorder is not None:
            self._recorder.on_submit(spec.rid, len(spec.input_ids))

    def posted(self, op: ControlOp | PairOp, *, step: int) -> None:
        """The script posts an operation."""
        self.events.add("op", step, op)
        if self._recorder is not None:
            self._recorder.on_op(op)

    def batch(self, facts: BatchFacts, *, step: int) -> ScriptedBatchRecord:
        """A batch goes to the model in iteration ``step``."""
        record = self.batches.add(facts, step=step)
        self.events.add("batch", record)
        if record.extend_rids:
            self.ledger.on_batch(record)
        if self._recorder is not None:
            self._recorder.on_batch(record)
        return record

    def finished(
        self, rid: str, reason: FinishReason, output_ids: Sequence[int], *, step: int
    ) -> None:
        """A request has ended; only the first report of it counts."""
        if not self.ledger.finished(rid, reason, output_ids):
            return
        self.batches.quiet_steps = 0
        self.unchecked_ends.append(rid)
        if self._recorder is not None:
            self._recorder.on_finish(rid, reason, len(output_ids))
        self.events.add("finish", step, rid, reason.kind.value, list(output_ids))

    def close_iteration(self, step: int, *, may_be_quiet: bool) -> None:
        """An iteration has ended; one that had, or could make, no progress to make is not counted."""
        for rid in self.batches.close_iteration(self._adapter.chunked_rids()):
            self.ledger.on_parked(rid)
        if may_be_quiet:
            self.batches.quiet_steps = 0
        if self._recorder is not None:
            self._recorder.close_iteration(step)

    def _live_output_ids(self, rid: str) -> Sequence[int] | None:
        for live, output_ids in self._adapter.live_outputs():
            if live == rid:
                return output_ids
        return None
