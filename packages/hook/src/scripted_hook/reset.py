"""What happens before each script: the engine is brought to rest and emptied; and after it."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from typing import TYPE_CHECKING

from scripted_core.errors import EngineDirty
from scripted_core.ops import AbortAll, Continue, Flush, ReleaseHeld
from scripted_core.pd_ports import PdPort

from scripted_hook.ranks import RankedAdapter

if TYPE_CHECKING:
    from scripted_hook.adapter import EngineAdapter
    from scripted_hook.scheduler_hook import ScriptedSchedulerHook

MAX_RESET_STEPS = 400
CLIENTS_TIMEOUT_S = 5.0


def reset_engine(hook: ScriptedSchedulerHook) -> Iterator[None]:
    """Continue if paused, release, abort all, step until fully idle, flush: one ``yield`` each step.

    An engine that is already at rest and empty is left alone. Raises ``EngineDirty`` when it does
    not come to rest within ``MAX_RESET_STEPS``.
    """
    engine = hook.adapter
    if engine.is_paused:
        engine.control(Continue())
    if hook.memory.holds_anything:
        engine.control(ReleaseHeld())
    if not engine.is_idle():
        engine.control(AbortAll())
    steps = 0
    quiet = 0
    while not engine.is_fully_idle() or quiet < engine.quiesce_steps:
        quiet = quiet + 1 if engine.is_fully_idle() else 0
        if steps == MAX_RESET_STEPS:
            raise EngineDirty(
                f"the engine did not come to rest within {MAX_RESET_STEPS} iterations of a reset\n\n"
                f"last state:\n{hook.describe_state()}",
                hint="an earlier script left work that cannot be aborted; start a fresh engine",
            )
        steps += 1
        yield
        if not engine.is_idle() and steps % 16 == 0:
            engine.control(AbortAll())  # requests that were in flight towards the inbox
    # A front that still serves a stream of the last script would refuse its rid to the next one.
    hook.ledger.wait_for_clients(CLIENTS_TIMEOUT_S)
    if _may_have_cached(engine):
        receipt = engine.control(Flush())
        while receipt.ok is None and steps < MAX_RESET_STEPS:
            steps += 1
            yield
        if not receipt.ok:
            raise EngineDirty(
                f"the engine refused to flush its prefix tree at reset: {receipt.message}\n\n"
                f"last state:\n{hook.describe_state()}",
                hint="start a fresh engine",
            )


def _may_have_cached(engine: EngineAdapter) -> bool:
    if isinstance(engine, PdPort) and any(pool.evictable for pool in engine.kv_pools.values()):
        return True  # the tree of the other engine may be in another process
    tree = engine.prefix_tree
    if tree is None or not tree.enabled:
        return False
    # The tree is that of the driver; nobody knows from here whether another one is empty.
    has_replicas = isinstance(engine, RankedAdapter) and bool(engine.independent_ranks)
    return has_replicas or any(True for _ in tree.nodes())


def idle_iterations(n: int) -> Generator[None, None, None]:
    """Let ``n`` more iterations pass."""
    for _ in range(n):
        yield
