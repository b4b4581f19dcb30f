"""What a prefill/decode pair offers beside the port of an engine, as protocols."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from scripted_core.ops import ControlReceipt, PairOp
from scripted_core.views import KvChunkView, PdStage, QueueView, RequestView, Side


class SidePort(Protocol):
    """One engine of the pair, to look at."""

    @property
    def pool(self) -> str:
        """The name of its KV pool among the pair's ``kv_pools``."""
        ...

    @property
    def is_paused(self) -> bool:
        """Whether a pause is in force here."""
        ...

    def queues(self) -> QueueView:
        """The rids in its queues."""
        ...

    def request(self, rid: str) -> RequestView | None:
        """Its own view of one live request."""
        ...


class TransferPort(Protocol):
    """The KV transfer between the two, to look at."""

    @property
    def is_held(self) -> bool:
        """Whether a script holds it: nothing is delivered but what is stepped."""
        ...

    @property
    def waits_for_script(self) -> bool:
        """Whether it is held, or a chunk is only on its way because a script delays it."""
        ...

    def pending(self) -> Sequence[KvChunkView]:
        """Chunks that were sent and neither delivered nor lost, in the order of delivery."""
        ...

    @property
    def delivered(self) -> int:
        """Chunks whose KV the decode engine has taken since the last reset."""
        ...

    @property
    def rejected(self) -> Sequence[str]:
        """Why each chunk was refused that came twice, too late or for nobody, oldest first."""
        ...

    def stage(self, rid: str) -> PdStage:
        """Where a request is."""
        ...


@runtime_checkable
class PdPort(Protocol):
    """A prefill engine, a decode engine and the transfer between them, under one script."""

    @property
    def transfer(self) -> TransferPort:
        """The KV transfer."""
        ...

    def side(self, side: Side) -> SidePort:
        """One of the two engines."""
        ...

    def control_pair(self, op: PairOp) -> ControlReceipt:
        """Post an operation; it applies in the coming iteration, before anything runs."""
        ...
