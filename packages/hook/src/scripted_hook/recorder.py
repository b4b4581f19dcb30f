"""Records a script iteration by iteration, when somebody wants to see it."""

from __future__ import annotations

from collections.abc import Sequence

from scripted_core.ops import ControlOp, Exhaust, OnSide, PairOp
from scripted_core.trace import RequestProgress, RequestState, StepListener, StepTrace
from scripted_core.views import FinishKind, FinishReason, RequestStatus, ScriptedBatchRecord

from scripted_hook.adapter import EngineAdapter

_ENDED_AS = {FinishKind.ABORT: RequestState.ABORTED, FinishKind.REFUSED: RequestState.ABORTED}


class Recorder:
    """Collects one :class:`StepTrace` for each iteration of a script.

    ``on_step`` is told of each, right after its iteration has ended.
    """

    def __init__(self, adapter: EngineAdapter, *, on_step: StepListener | None = None) -> None:
        self._adapter = adapter
        self._on_step = on_step
        self._steps: list[StepTrace] = []
        self._operations: list[str] = []
        self._ended: dict[str, RequestState] = {}
        self._batches: list[ScriptedBatchRecord] = []
        self._ran_before: set[str] = set()
        self._progress: dict[str, RequestProgress] = {}

    @property
    def steps(self) -> tuple[StepTrace, ...]:
        """Everything so far."""
        return tuple(self._steps)

    def on_op(self, op: ControlOp | PairOp) -> None:
        """A control operation was posted."""
        self._operations.append(_words(op))

    def on_submit(self, rid: str, prompt_len: int) -> None:
        """A request was posted."""
        self._operations.append(f"start_req {rid} ({prompt_len} tokens)")
        self._progress[rid] = RequestProgress(0, prompt_len, 0)

    def on_batch(self, record: ScriptedBatchRecord) -> None:
        """A batch is about to run."""
        self._batches.append(record)

    def on_finish(self, rid: str, reason: FinishReason, output_len: int) -> None:
        """A request ended with ``output_len`` output tokens."""
        ended = self._ended[rid] = _ENDED_AS.get(reason.kind, RequestState.FINISHED)
        before = self._progress.get(rid)
        if before is not None:
            # The prompt of a request that was cut short stays as far as it was last seen.
            whole = ended is RequestState.FINISHED
            computed = before.prompt_len if whole else before.computed_tokens
            self._progress[rid] = RequestProgress(computed, before.prompt_len, output_len)

    def close_iteration(self, step: int) -> None:
        """Write down the iteration that has just ended."""
        states = {rid: RequestState(state) for rid, state in self._ended.items()}
        for view in self._adapter.requests():
            if view.rid not in states:
                states[view.rid] = self._state(view.rid, view.status)
                self._progress[view.rid] = RequestProgress(
                    view.computed_tokens, view.prompt_len, view.output_len
                )
        # In the order in which they were posted, whatever the engine's is.
        states = {rid: states[rid] for rid in (*self._progress, *states) if rid in states}
        batch_rids = tuple(dict.fromkeys(rid for one in self._batches for rid in one.rids))
        self._ran_before.update(batch_rids)
        pool = self._adapter.kv_pools["full"]
        trace = StepTrace(
            step=step,
            mode="+".join(record.mode.value for record in self._batches) or "-",
            states=states,
            free_pages=pool.available,
            total_pages=pool.total,
            operations=tuple(self._operations),
            evictable_pages=pool.evictable,
            held_pages=pool.held,
            batch_rids=batch_rids,
            progress={rid: self._progress[rid] for rid in states if rid in self._progress},
        )
        self._steps.append(trace)
        for rid in self._ended:
            self._progress.pop(rid, None)
        self._operations.clear()
        self._ended.clear()
        self._batches.clear()
        if self._on_step is not None:
            self._on_step(trace)

    def _state(self, rid: str, status: RequestStatus) -> RequestState:
        in_batch = _part_in(rid, self._batches)
        if in_batch is not None:
            return in_batch
        if status is RequestStatus.WAITING:
            return RequestState.RETRACTED if rid in self._ran_before else RequestState.WAITING
        return RequestState.PAUSED if self._adapter.is_paused else RequestState.RUNNING


def _part_in(rid: str, batches: Sequence[ScriptedBatchRecord]) -> RequestState | None:
    for record in reversed(batches):
        if rid in record.chunked_rids:
            return RequestState.CHUNK
        if rid in record.extend_rids:
            return RequestState.PREFILL
        if rid in record.rids:
            return RequestState.DECODE
    return None


def _words(op: ControlOp | PairOp) -> str:
    if isinstance(op, OnSide):
        return f"{op.side.value}.{_words(op.op)}"
    if isinstance(op, Exhaust):
        name, given = f"exhaust_{op.name}", op.params
    else:
        name = type(op).__name__.lower()
        given = {field: getattr(op, field) for field in op.__struct_fields__}
    fields = ", ".join(
        f"{field}={value!s}" for field, value in given.items() if value not in (None, False, ())
    )
    # It has to travel: a text that UTF-8 cannot hold is escaped.
    return f"{name}({fields})".encode("utf-8", "backslashreplace").decode()
