"""Steps that know of microbatch slots: what is in flight, and how long until it is not."""

from __future__ import annotations

from collections.abc import Iterator

from scripted_chunked import advance_to_nth_chunk, run_steps
from scripted_core import ScriptedContext, ScriptedReqHandle
from scripted_core.errors import StepsExhausted
from scripted_core.handle import require_handle

_MOST_SLOTS = 32


def slots_of(t: ScriptedContext) -> int:
    """How many microbatch slots the engine has; needs the capability ``sglang_names``."""
    return len(t.scheduler.mbs)


def run_turns(t: ScriptedContext, n: int) -> Iterator[None]:
    """As many iterations as give each microbatch slot ``n`` turns."""
    yield from run_steps(n * slots_of(t))


def launch_whole_prompt(
    t: ScriptedContext, handle: ScriptedReqHandle, *, chunks: int
) -> Iterator[None]:
    """Step until the last of ``chunks`` chunks is launched and its result is still in flight.

    No request waits then and none is part way through its prompt: the queues look empty. Raises
    ``AssertionError`` when the result is there already.
    """
    yield from advance_to_nth_chunk(handle, chunks)
    queues = t.queues
    if queues.waiting or queues.chunked or handle.output_ids or t.is_fully_idle:
        raise AssertionError(
            f"the last chunk of {handle.rid} is not in flight:\n{t.hook.describe_state()}"
        )


def until_drained(t: ScriptedContext, handle: ScriptedReqHandle) -> Iterator[None]:
    """Step until a pause that retracts is complete: the request is back in the waiting queue.

    Raises ``StepsExhausted`` when that takes longer than any pipeline needs.
    """
    require_handle("until_drained", handle)
    for _ in range(_MOST_SLOTS):
        if handle.rid in t.queues.waiting or handle.finished:
            return
        yield
    raise StepsExhausted(
        f"until_drained: {handle.rid} was not put back after {_MOST_SLOTS} steps\n"
        f"last state:\n{t.hook.describe_state()}",
        hint="pause with mode='retract' first",
    )


def require_ranks_alike(t: ScriptedContext) -> None:
    """Check that all stages have the same figures and queues, if all are seen after one iteration."""
    driver, *others = t.ranks
    for rank in others:
        differences = rank.differences(driver) if rank.step == driver.step else ()
        if differences:
            raise AssertionError(f"rank {rank.rank} is unlike the driver: {differences}")
