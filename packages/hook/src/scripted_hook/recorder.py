"""Records a script iteration by iteration, when somebody wants to see it."""

from __future__ import annotations

from collections.abc import Sequence

from scripted_core.ops import ControlOp
from scripted_core.trace import RequestState, StepTrace
from scripted_core.views import FinishKind, FinishReason, RequestStatus, ScriptedBatchRecord

from scripted_hook.adapter import EngineAdapter

_ENDED_AS = {FinishKind.ABORT: RequestState.ABORTED, FinishKind.REFUSED: RequestState.ABORTED}


class Recorder:
    """Collects one :class:`StepTrace` for each iteration of a script."""

    def __init__(self, adapter: EngineAdapter) -> None:
        self._adapter = adapter
        self._steps: list[StepTrace] = []
        self._operations: list[str] = []
        self._ended: dict[str, RequestState] = {}
        self._batches: list[ScriptedBatchRecord] = []
        self._ran_before: set[str] = set()

    @property
    def steps(self) -> tuple[StepTrace, ...]:
        """Everything so far."""
        return tuple(self._steps)

    def on_op(self, op: ControlOp) -> None:
        """A control operation was posted."""
        self._operations.append(_words(op))

    def on_submit(self, rid: str, prompt_len: int) -> None:
        """A request was posted."""
        self._operations.append(f"start_req {rid} ({prompt_len} tokens)")

    def on_batch(self, record: ScriptedBatchRecord) -> None:
        """A batch is about to run."""
        self._batches.append(record)

    def on_finish(self, rid: str, reason: FinishReason) -> None:
        """A request ended."""
        self._ended[rid] = _ENDED_AS.get(reason.kind, RequestState.FINISHED)

    def close_iteration(self, step: int) -> None:
        """Write down the iteration that has just ended."""
        states = {rid: RequestState(state) for rid, state in self._ended.items()}
        for view in self._adapter.requests():
            if view.rid not in states:
                states[view.rid] = self._state(view.rid, view.status)
        self._ran_before |= {rid for record in self._batches for rid in record.rids}
        pool = self._adapter.kv_pools["full"]
        self._steps.append(
            StepTrace(
                step=step,
                mode="+".join(record.mode.value for record in self._batches) or "-",
                states=states,
                free_pages=pool.available,
                total_pages=pool.total,
                operations=tuple(self._operations),
            )
        )
        self._operations.clear()
        self._ended.clear()
        self._batches.clear()

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


def _words(op: ControlOp) -> str:
    fields = ", ".join(
        f"{name}={getattr(op, name)!s}"
        for name in op.__struct_fields__
        if getattr(op, name) not in (None, False)
    )
    return f"{type(op).__name__.lower()}({fields})"
