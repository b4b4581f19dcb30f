"""The last state of an engine, in words for a person."""

from __future__ import annotations

from collections.abc import Iterator

from scripted_hook.adapter import EngineAdapter
from scripted_hook.books import Books
from scripted_hook.phase import Phase


def state_lines(
    adapter: EngineAdapter,
    books: Books,
    *,
    step: int,
    phase: Phase,
) -> Iterator[str]:
    """A line each for where it is, the queues, each KV pool, the last batch and each end."""
    queues = adapter.queues()
    yield f"step {step}, {phase.value}" + (", paused" if adapter.is_paused else "")
    yield (
        f"waiting {list(queues.waiting)}, running {list(queues.running)}, "
        f"mid-chunk {list(queues.chunked)}"
    )
    for name, pool in adapter.kv_pools.items():
        yield (
            f"KV pool {name!r}: {pool.available} of {pool.total} pages free, "
            f"{pool.evictable} evictable, {pool.held} held"
        )
    if books.batches.records:
        last = books.batches.records[-1]
        yield f"last batch: step {last.step}, {last.mode.value}, {list(last.rids)}"
    for rid, reason in books.ledger.finishes.items():
        yield f"request {rid}: ended by {reason.kind.value} {reason.message}".rstrip()
