"""The KV transfer of an engine that lets nobody interfere with it, and where a request is."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from scripted_core.errors import CapabilityMissing
from scripted_core.ops import Transfer
from scripted_core.views import KvChunkView, PdStage


class UncontrolledTransfer:
    """``t.transfer`` of an engine that moves KV by itself: only where a request is can be asked."""

    is_held = False
    waits_for_script = False
    delivered = 0

    def __init__(self, stage: Callable[[str], PdStage]) -> None:
        self._stage = stage

    @property
    def rejected(self) -> Sequence[str]:
        """Nothing is known of it."""
        return ()

    def pending(self) -> Sequence[KvChunkView]:
        """Nothing is known of it."""
        return ()

    def stage(self, rid: str) -> PdStage:
        """Where a request is."""
        return self._stage(rid)

    def apply(self, op: Transfer) -> None:
        """It cannot be interfered with."""
        raise CapabilityMissing(
            f"t.transfer.{op.action.value}(): this engine moves KV by itself, with nobody in between",
            hint="run the script on the reference engine",
        )


def stage_of(here: PdStage | None, there: PdStage | None) -> PdStage:
    """Where a request is, of where the decode engine and the prefill engine have it.

    ``here`` is ``QUEUED`` for one whose KV has not come: then the prefill engine knows better.
    """
    if here is None:
        return PdStage.GONE if there is None else PdStage.TRANSFERRING
    return there if here is PdStage.QUEUED and there is not None else here
