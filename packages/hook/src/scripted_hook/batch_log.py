"""The batch log of one script, and what follows from it: parked chunks, iterations without a batch."""

from __future__ import annotations

from scripted_core.views import ScriptedBatchRecord

from scripted_hook.adapter import BatchFacts


class BatchLog:
    """Every batch since the script began."""

    def __init__(self) -> None:
        self.records: list[ScriptedBatchRecord] = []
        self.quiet_steps = 0
        """Iterations in a row in which no batch ran and no request ended."""
        self._extended: tuple[str, ...] = ()
        self._chunked_before: tuple[str, ...] = ()
        self._ran = False

    def add(self, facts: BatchFacts, *, step: int) -> ScriptedBatchRecord:
        """One more batch, in iteration ``step``."""
        record = ScriptedBatchRecord(
            len(self.records) + 1,
            facts.mode,
            facts.rids,
            facts.extend_rids,
            facts.chunked_rids[0] if facts.chunked_rids else None,
            facts.chunked_rids,
            step,
        )
        self.records.append(record)
        self._extended += record.extend_rids
        self._ran = True
        return record

    def close_iteration(self, chunked: tuple[str, ...]) -> tuple[str, ...]:
        """An iteration has ended with ``chunked`` mid-chunk; those of them that it left parked."""
        parked = tuple(
            rid for rid in self._chunked_before if rid in chunked and rid not in self._extended
        )
        self._chunked_before = chunked
        self.quiet_steps = 0 if self._ran else self.quiet_steps + 1
        self._extended = ()
        self._ran = False
        return parked
