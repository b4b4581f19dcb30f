"""What most in-process engines have in common: the session's view of them, and what they lack."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from scripted_core.errors import CapabilityMissing
from scripted_core.memory_ports import PrefixTree, RowPool
from scripted_core.ops import ControlOp, ControlReceipt
from scripted_core.ports import bind_port, unbind_port
from scripted_core.views import RequestView

from scripted_hook.adapter import EngineAdapter, EngineEvents
from scripted_hook.scheduler_hook import ScriptedSchedulerHook


class InProcessDefaults:
    """Base of an adapter: the members that say that the engine does not have something.

    No request rows, no prefix tree, no chunks, no HTTP front, no other clients, no processes of its own,
    no leak check and nothing in flight after an iteration. Whatever the engine does have, the adapter
    overrides. ``events`` are there after :meth:`attach`.
    """

    name: str
    is_driver = True
    quiesce_steps = 0
    rows: RowPool | None = None
    prefix_tree: PrefixTree | None = None
    events: EngineEvents

    def attach(self, events: EngineEvents) -> None:
        """Keep whom to report to."""
        self.events = events

    def begin_hold(self) -> None:
        """Nobody else can send requests."""

    def end_hold(self) -> None:
        """Nothing was parked."""

    def drive_warmup(self) -> None:
        """There is nothing to warm up."""

    def chunked_rids(self) -> tuple[str, ...]:
        """Whole prompts only."""
        return ()

    def requests(self) -> Sequence[RequestView]:
        """All live requests; the adapter's own."""
        raise NotImplementedError(f"{type(self).__name__}.requests()")

    def request(self, rid: str) -> RequestView | None:
        """One of ``requests()``."""
        return next((view for view in self.requests() if view.rid == rid), None)

    def control_http(self, op: ControlOp, *, await_arrival: bool = True) -> ControlReceipt:
        """There is no HTTP front: ``CapabilityMissing``."""
        raise CapabilityMissing(f"engine {self.name!r} has no HTTP front")

    def declare_held(self, *, pages_by_pool: Mapping[str, int], rows: int) -> None:
        """There is no leak check to tell."""

    def hooks_fired(self) -> tuple[str, ...]:
        """The engine's loop calls the hook itself."""
        return ("loop",)

    def pids(self) -> Mapping[str, int]:
        """Everything is in this process."""
        return {"engine": os.getpid()}

    def close(self) -> None:
        """Nothing to let go of."""


class InProcessEngine:
    """An engine in this process, as ``scripted_make_engine`` returns it.

    Makes the hook; ``iterate`` is exactly one iteration of the engine's loop, which calls
    ``hook.step()`` before it receives, and ``hook.on_run_batch(batch)`` before a batch runs.
    """

    def __init__(self, *, adapter: EngineAdapter, iterate: Callable[[], Any]) -> None:
        self._adapter = adapter
        self._iterate = iterate
        self._is_open = True
        self.hook = ScriptedSchedulerHook(
            scheduler=adapter.scheduler, tokenizer_recv_proxy=None, adapter=adapter
        )
        bind_port(adapter.scheduler, adapter)

    def iterate(self) -> None:
        """Exactly one scheduler iteration."""
        self._iterate()

    def close(self) -> None:
        """Let go of the engine; may be called twice."""
        if self._is_open:
            self._is_open = False
            unbind_port(self._adapter.scheduler)
            self._adapter.close()
