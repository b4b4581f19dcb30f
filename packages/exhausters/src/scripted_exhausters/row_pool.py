"""Taking the pool of request rows down to a chosen number."""

from __future__ import annotations

from typing import Any

from scripted_core.errors import CapabilityMissing, ExhaustError
from scripted_core.memory_ports import Hold, RowPool
from scripted_core.ports import port_of
from scripted_core.requests import require_int


class ScriptedRowPoolExhauster:
    """Holds request rows so that no further request can be admitted.

    ``scripted_chunked.exhaust_row_pool`` reaches the same state with real ballast requests.
    """

    def __init__(self, scheduler: Any) -> None:
        self._port = port_of(scheduler)
        self._held: list[tuple[RowPool, Hold]] = []

    def exhaust(self, *, leave_rows: int) -> None:
        """Hold rows until ``leave_rows`` are free; ``ExhaustError`` when fewer are free already."""
        require_int("exhaust_rows", "leave_rows", leave_rows, at_least=0)
        rows = self._port.rows
        if rows is None:
            raise CapabilityMissing(f"engine {self._port.name!r} has no pool of request rows")
        need = rows.available - leave_rows
        if need < 0:
            raise ExhaustError(
                f"exhaust_rows: leave_rows={leave_rows} is more than the {rows.available} free rows",
                hint=f"leave_rows goes from 0 to {rows.available} here",
            )
        if need:
            self._held.append((rows, rows.hold(need)))

    def release(self) -> None:
        """Give every row back; may be called twice."""
        while self._held:
            rows, hold = self._held.pop()
            rows.release(hold)
