"""Filling the prefix tree and the row pool with requests, as traffic would."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence

from scripted_core import ScriptedContext, ScriptedReqHandle
from scripted_core.capabilities import Capability
from scripted_core.errors import ExhaustError, StepsExhausted
from scripted_core.requests import require_int

from scripted_chunked.engine import DEFAULT_MAX_STEPS
from scripted_chunked.until import run_until_finished


def warmup_radix(
    t: ScriptedContext,
    prompt_tokens: Sequence[int],
    *,
    max_steps: int = DEFAULT_MAX_STEPS,
) -> Iterator[None]:
    """Leave the prefix of ``prompt_tokens`` in the prefix tree, by one request that runs to its end."""
    t.require(Capability.PREFIX_CACHE, "warmup_radix()")
    handle = t.start_req(input_ids=list(prompt_tokens), max_new_tokens=1, ignore_eos=True)
    yield from run_until_finished(handle, max_steps=max_steps)


def exhaust_row_pool(
    t: ScriptedContext, *, leave_rows: int, max_steps: int = DEFAULT_MAX_STEPS
) -> Generator[None, None, list[ScriptedReqHandle]]:
    """Start ballast requests until only ``leave_rows`` request rows are free.

    Returns (as the value of ``yield from``) the ballast's handles; they decode on until they are
    aborted. Raises ``ExhaustError`` when fewer rows are free already, ``StepsExhausted`` when the
    ballast does not get its rows in time.
    """
    t.require(Capability.ROW_POOL, "exhaust_row_pool()")
    require_int("exhaust_row_pool", "leave_rows", leave_rows, at_least=0)
    free = t.engine_stats()["req_pool_free"]
    if leave_rows > free:
        raise ExhaustError(
            f"exhaust_row_pool: leave_rows={leave_rows} is more than the {free} free rows",
            hint=f"leave_rows goes from 0 to {free} here",
        )
    ballast: list[ScriptedReqHandle] = [
        t.start_req(prompt_len=1, prompt_token=2 + i, max_new_tokens=4 * max_steps, ignore_eos=True)
        for i in range(free - leave_rows)
    ]
    for _ in range(max_steps):
        if t.engine_stats()["req_pool_free"] <= leave_rows:
            return ballast
        yield
    raise StepsExhausted(
        f"exhaust_row_pool: {t.engine_stats()['req_pool_free']} rows are still free after "
        f"{max_steps} steps, {leave_rows} were asked for\n"
        f"last state:\n{t.hook.describe_state()}",
        hint="max_running_requests may be lower than the number of rows",
    )
