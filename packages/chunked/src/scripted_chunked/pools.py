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
    aborted, or until together they have used three quarters of the free KV: what they may use is
    reserved at admission, and more would keep the last of them waiting for KV, not for a row.
    Raises ``ExhaustError`` when fewer rows are free already, ``StepsExhausted`` when the ballast
    does not get its rows in time.
    """
    t.require(Capability.ROW_POOL, "exhaust_row_pool()")
    require_int("exhaust_row_pool", "leave_rows", leave_rows, at_least=0)
    free = t.engine_stats()["req_pool_free"]
    if leave_rows > free:
        raise ExhaustError(
            f"exhaust_row_pool: leave_rows={leave_rows} is more than the {free} free rows",
            hint=f"leave_rows goes from 0 to {free} here",
        )
    count = free - leave_rows
    new_tokens = max(1, min(4 * max_steps, _kv_tokens_for_ballast(t) // max(1, count)))
    ballast: list[ScriptedReqHandle] = [
        t.start_req(
            prompt_len=1,
            prompt_token=1 + i % (t.engine.vocab_size - 1),
            max_new_tokens=new_tokens,
            ignore_eos=True,
        )
        for i in range(count)
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


def _kv_tokens_for_ballast(t: ScriptedContext) -> int:
    stats = t.engine_stats()
    return (stats["kv_pool_free"] + stats["kv_pool_evictable"]) * stats["page_size"] * 3 // 4
