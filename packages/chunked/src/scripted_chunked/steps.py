"""Steps that the scripts of every topology share."""

from __future__ import annotations

from collections.abc import Generator, Iterator

from scripted_core import ScriptedContext
from scripted_core.errors import StepsExhausted

from scripted_chunked.until import run_until_finished

_REST_STEPS = 16


def run_steps(n: int) -> Iterator[None]:
    """Exactly ``n`` scheduler iterations."""
    for _ in range(n):
        yield


def settle(t: ScriptedContext, *, max_steps: int = _REST_STEPS) -> Iterator[None]:
    """Step until nothing is in flight, which is later than the last finish on an engine that overlaps.

    Raises ``StepsExhausted`` when that takes more than ``max_steps`` iterations.
    """
    for _ in range(max_steps):
        if t.is_fully_idle:
            return
        yield
    if not t.is_fully_idle:
        raise StepsExhausted(
            f"settle: the engine is not at rest after {max_steps} steps\n"
            f"last state:\n{t.hook.describe_state()}",
            hint="end or abort every request first",
        )


def flush(t: ScriptedContext) -> Iterator[None]:
    """Wait for the engine to be at rest, then empty its prefix tree.

    Raises ``AssertionError`` with the engine's own words when it refuses.
    """
    yield from settle(t)
    receipt = t.flush_cache()
    yield
    if receipt.ok is not True:
        raise AssertionError(f"an idle engine did not flush its prefix tree: {receipt}")


def undisturbed_output(
    t: ScriptedContext, *, prompt_len: int, seed: int, max_new_tokens: int
) -> Generator[None, None, list[int]]:
    """What a prompt is answered with when nothing interferes; leaves an empty prefix tree.

    The value of ``yield from``. Compare outputs of ``seed=`` prompts only: with one repeated token
    all KV slots are equal, and a swapped one shows nowhere.
    """
    r = t.start_req(
        prompt_len=prompt_len, seed=seed, max_new_tokens=max_new_tokens, ignore_eos=True
    )
    yield from run_until_finished(r)
    output = r.output_ids
    if len(output) != max_new_tokens:
        raise AssertionError(f"{max_new_tokens} tokens were asked for and {len(output)} came")
    yield from flush(t)
    return output


def require_at_rest(t: ScriptedContext) -> None:
    """Check that no request is anywhere and that all memory of every pool is free or in the prefix tree.

    Raises ``AssertionError`` with the pool figures. What exhausters hold counts as missing.
    """
    stats = t.engine_stats()
    if not t.is_fully_idle or t.list_active_reqs():
        raise AssertionError(f"the engine is not at rest:\n{t.hook.describe_state()}")
    for name, pool in t.engine.kv_pools.items():
        if pool.available + pool.evictable != pool.total:
            raise AssertionError(f"KV pages are missing from pool {name!r} at rest: {stats}")
    if stats.get("req_pool_free") != stats.get("req_pool_total"):
        raise AssertionError(f"request rows are missing from an engine at rest: {stats}")
