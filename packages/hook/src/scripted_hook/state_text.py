"""The last state of an engine, in words for a person."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from scripted_core.views import FinishReason, ScriptedBatchRecord

from scripted_hook.adapter import EngineAdapter


def state_lines(
    adapter: EngineAdapter,
    *,
    step: int,
    phase: str,
    last_batch: ScriptedBatchRecord | None,
    ends: Mapping[str, FinishReason],
) -> Iterator[str]:
    """A line each for where it is, the queues, each KV pool, the last batch and each end."""
    queues = adapter.queues()
    yield f"step {step}, {phase}" + (", paused" if adapter.is_paused else "")
    yield (
        f"waiting {list(queues.waiting)}, running {list(queues.running)}, "
        f"mid-chunk {list(queues.chunked)}"
    )
    for name, pool in adapter.kv_pools.items():
        yield (
            f"KV pool {name!r}: {pool.available} of {pool.total} pages free, "
            f"{pool.evictable} evictable, {pool.held} held"
        )
    if last_batch is not None:
        yield f"last batch: step {last_batch.step}, {last_batch.mode.value}, {list(last_batch.rids)}"
    for rid, reason in ends.items():
        yield f"request {rid}: ended by {reason.kind.value} {reason.message}".rstrip()
