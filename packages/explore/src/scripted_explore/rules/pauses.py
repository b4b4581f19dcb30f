"""Rule `pause`: nothing advances while an engine is paused, and a retraction leaves nobody running."""

from __future__ import annotations

from typing import Any

from scripted_core.views import FinishKind, PauseMode

from scripted_explore.operations import Op, Pause
from scripted_explore.world import PauseSeen, Rule

_BY_ITSELF = frozenset({FinishKind.LENGTH, FinishKind.STOP})


class PauseRule(Rule):
    """No batch runs, outputs stand still once nothing is in flight, and all wait if retracted."""

    def posted(self, op: Op, result: Any) -> None:
        """With nothing in flight, outputs stand still from the call on."""
        pause = self.world.pause
        if isinstance(op, Pause) and pause is not None and self._still_after(pause) == 0:
            pause.frozen = self.world.lengths()

    def after(self) -> None:
        """Look at batches, outputs and queues."""
        world = self.world
        pause = world.pause
        if pause is None or world.side_paused or world.is_pair:
            return
        for record in world.records:
            if record.step > pause.since:
                world.broken("pause", f"a batch of {list(record.rids)} ran while paused")
        passed = world.step - pause.since
        if passed < self._still_after(pause):
            return
        if pause.frozen is None:
            pause.frozen = world.lengths()
        else:
            self._stands_still(pause.frozen)
        if pause.mode is PauseMode.RETRACT and passed > world.facts.lag:
            queues = world.t.queues
            if queues.running or queues.chunked:
                left = sorted({*queues.running, *queues.chunked})
                world.broken("pause", f"after a pause that retracts, {left} are not waiting")

    def _still_after(self, pause: PauseSeen) -> int:
        facts = self.world.facts
        if facts.slots > 1:
            return facts.slots
        if pause.mode is PauseMode.RETRACT or pause.meets_another:
            return 1
        return 0

    def _stands_still(self, frozen: dict[str, int]) -> None:
        world = self.world
        for rid, length in world.lengths().items():
            if length != frozen.setdefault(rid, length):
                world.broken(
                    "pause", f"the output of {rid} went from {frozen[rid]} to {length} while paused"
                )
        for request in world.ended_now:
            if request.reason is not None and request.reason.kind in _BY_ITSELF:
                world.broken("pause", f"{request.rid} ended by itself while paused")
