"""Bounded waits, one scheduler iteration at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from scripted_core import ScriptedContext, ScriptedReqHandle
from scripted_core.errors import StepsExhausted
from scripted_core.handle import require_handle

from scripted_chunked.engine import DEFAULT_MAX_STEPS


def run_until(
    handle: ScriptedReqHandle,
    predicate: Callable[[ScriptedReqHandle], bool],
    *,
    max_steps: int = DEFAULT_MAX_STEPS,
) -> Iterator[None]:
    """Step until ``predicate(handle)`` holds; ``StepsExhausted`` after ``max_steps`` iterations."""
    require_handle("run_until", handle)
    for _ in range(max_steps):
        if predicate(handle):
            return
        yield
    if predicate(handle):
        return
    raise exhausted("run_until", "the predicate never held", handle, max_steps)


def run_until_finished(
    handle: ScriptedReqHandle, *, max_steps: int = DEFAULT_MAX_STEPS
) -> Iterator[None]:
    """Step until the request has ended, by whatever way."""
    require_handle("run_until_finished", handle)
    yield from run_until(handle, lambda h: h.finished, max_steps=max_steps)


def run_until_all_finished(
    handles: Sequence[ScriptedReqHandle], *, max_steps: int = DEFAULT_MAX_STEPS
) -> Iterator[None]:
    """Step until every request has ended."""
    for one in handles:
        require_handle("run_until_all_finished", one)
    for _ in range(max_steps):
        if all(handle.finished for handle in handles):
            return
        yield
    open_handles = [handle for handle in handles if not handle.finished]
    if open_handles:
        raise StepsExhausted(
            f"run_until_all_finished: {len(open_handles)} of {len(handles)} requests have not ended "
            f"after {max_steps} steps: {', '.join(str(handle) for handle in open_handles)}\n"
            f"last state:\n{open_handles[0].context.hook.describe_state()}",
            hint="raise max_steps, or look at what keeps them waiting",
        )


def exhausted(where: str, what: str, handle: ScriptedReqHandle, max_steps: int) -> StepsExhausted:
    """The error of a wait on one request, with the state that it stopped in."""
    return StepsExhausted(
        f"{where}: {what} after {max_steps} steps (request {handle.rid!r}: {handle.status}, "
        f"finished={handle.finished}, chunks_done={handle.chunks_done}, "
        f"output tokens={len(handle.output_ids)})\n"
        f"last state:\n{handle.context.hook.describe_state()}",
        hint="raise max_steps, or look at what keeps the request from going on",
    )


def run_until_seen_everywhere(t: ScriptedContext, *, max_steps: int = 16) -> Iterator[None]:
    """One iteration, and as many more as it takes until ``t.ranks`` shows every rank after it.

    Where all ranks end an iteration together, and where there is only one, that is the one iteration;
    a later pipeline stage is seen some iterations later.
    """
    wanted = t.step_index + 1
    for _ in range(max_steps):
        yield
        if all(view.step >= wanted for view in t.ranks):
            return
    raise StepsExhausted(
        f"run_until_seen_everywhere: not every rank is seen after iteration {wanted} in {max_steps} "
        f"steps: {', '.join(f'{view.rank} {view.step}' for view in t.ranks)}"
    )
