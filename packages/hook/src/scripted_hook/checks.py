"""Everything that is checked after each iteration of a script, and at its end."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from scripted_core.errors import LeakDetected
from scripted_core.pd_ports import PdPort
from scripted_core.trace import ChecksDone
from scripted_core.views import Audit, FinishKind
from scripted_registry import PluginManager, Violation

from scripted_hook.adapter import EngineAdapter
from scripted_hook.events import EventLog
from scripted_hook.invariants import check_audit
from scripted_hook.ledger import Ledger
from scripted_hook.memory_ops import MemoryOperations
from scripted_hook.plugin_calls import plugin_errors

LIVENESS_STEPS = 64
"""An unpaused engine with admissible work has to run a batch within so many iterations."""
CLIENT_END_TIMEOUT_S = 5.0
_CUT_SHORT = frozenset({FinishKind.ABORT, FinishKind.REFUSED})
"""Ends whose client need not have received all of the output."""


PAGE_OWNERS = "one owner for each KV page"
ROW_OWNERS = "one owner for each request row"
LOCK_REFS = "lock refs add up"
APPEND_ONLY = "outputs only grow"
PROGRESS = "work makes progress"
BY_PLUGINS = "those of plugins"
RANKS_ALIKE = "all of it on every rank, and the ranks alike"


class InvariantChecks:
    """The invariants of the audit, of outputs and of progress, and those that plugins add."""

    def __init__(
        self,
        *,
        adapter: EngineAdapter,
        ledger: Ledger,
        events: EventLog,
        memory: MemoryOperations,
        plugins: PluginManager,
        several_ranks: bool = False,
    ) -> None:
        self._adapter = adapter
        self._ledger = ledger
        self._events = events
        self._memory = memory
        self._plugins = plugins
        self._several_ranks = several_ranks
        self._pair = adapter if isinstance(adapter, PdPort) else None
        self._plugins_check = plugins.has_impls("scripted_check_invariants")
        self.begin()

    def begin(self) -> None:
        """A script begins: nothing of it has been checked yet."""
        self._invariants: tuple[str, ...] = ()
        self._iterations = 0
        self._clients = 0
        self._client_tokens = 0

    @property
    def done(self) -> ChecksDone:
        """What has been checked of this script, and held."""
        return ChecksDone(
            self._invariants,
            self._iterations,
            self._clients,
            self._client_tokens,
            refused=tuple(
                f"{rid}: {reason.message}"
                for rid, reason in self._ledger.finishes.items()
                if reason.kind is FinishKind.REFUSED
            ),
        )

    def after_iteration(
        self, *, step: int, quiet_steps: int, elsewhere: Sequence[Violation] = ()
    ) -> LeakDetected | None:
        """Check the boundary after ``step``; ``quiet_steps`` iterations have run no batch.

        ``elsewhere`` are violations that other ranks have found.
        """
        audit = self._adapter.audit()
        found = [*check_audit(audit, step=step), *elsewhere]
        for rid, output_ids in self._adapter.live_outputs():
            wrong = self._ledger.check_appended(rid, output_ids)
            if wrong is not None:
                found.append(
                    Violation(
                        step=step,
                        code="output-rewritten",
                        message=f"request {rid} {wrong}",
                        subject=rid,
                    )
                )
        if quiet_steps >= LIVENESS_STEPS and self._has_stuck_work():
            found.append(
                Violation(
                    step=step,
                    code="no-progress",
                    message=(
                        "work is waiting, nothing is paused or held, and no batch ran for "
                        f"{quiet_steps} iterations"
                    ),
                    subject="scheduler",
                )
            )
        if self._plugins_check:
            with plugin_errors("scripted_check_invariants"):
                found.extend(self._plugins.check_invariants(audit, step=step))
        if found:
            return self.leak(found)
        if not self._iterations:
            self._invariants = self._names(audit)
        self._iterations += 1
        return None

    def _names(self, audit: Audit) -> tuple[str, ...]:
        return (
            PAGE_OWNERS,
            *((ROW_OWNERS,) if audit.rows is not None else ()),
            *((LOCK_REFS,) if self._adapter.prefix_tree is not None else ()),
            APPEND_ONLY,
            PROGRESS,
            *((RANKS_ALIKE,) if self._several_ranks else ()),
            *((BY_PLUGINS,) if self._plugins_check else ()),
        )

    def at_the_end(self, *, step: int, ended: Sequence[str]) -> None:
        """Each request in ``ended`` has a client that received exactly its output.

        Raises ``LeakDetected`` when one has not.
        """
        for rid in ended:
            client = self._ledger.client(rid)
            if client is None or self._ledger.finishes[rid].kind in _CUT_SHORT:
                continue
            output_ids = self._ledger.final_outputs[rid]
            wrong = None
            if not client.wait_ended(CLIENT_END_TIMEOUT_S):
                wrong = f"its client has not received the end after {CLIENT_END_TIMEOUT_S:g} s"
            elif client.token_ids != output_ids:
                wrong = f"its client received {client.token_ids}, the engine produced {output_ids}"
            if wrong is not None:
                raise self.leak(
                    [
                        Violation(
                            step=step,
                            code="client-differs",
                            message=f"request {rid}: {wrong}",
                            subject=rid,
                        )
                    ]
                )
            self._clients += 1
            self._client_tokens += len(output_ids)

    def is_obstructed(self) -> bool:
        """Whether the script itself keeps work from making progress: paused, held or delayed."""
        if self._adapter.is_paused or self._memory.holds_anything:
            return True
        if self._pair is None:
            return False
        # What is held in the other engine of a pair of servers shows in its pools alone.
        held = any(pool.held for pool in self._adapter.kv_pools.values())
        return held or self._pair.transfer.waits_for_script

    def may_be_quiet(self) -> bool:
        """Whether an iteration that runs no batch is as it should be: nothing to do, or obstructed."""
        return self._adapter.is_idle() or self.is_obstructed()

    def _has_stuck_work(self) -> bool:
        return not self.may_be_quiet()

    def leak(self, violations: Sequence[Violation]) -> LeakDetected:
        """The error for ``violations``, with the last operations before them."""
        last = self._events.last_operations()
        lines = []
        for one in violations:
            violation = dataclasses.replace(one, last_operations=one.last_operations or last)
            lines.append(f"[{violation.code}] step {violation.step}: {violation.message}")
            if violation.last_operations:
                lines.append("  last operations: " + "; ".join(violation.last_operations))
        return LeakDetected(
            "an invariant does not hold:\n" + "\n".join(lines),
            hint="run the script with check_invariants=False to see what happens after this step",
        )
