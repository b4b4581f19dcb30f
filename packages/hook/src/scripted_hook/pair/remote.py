"""The prefill engine as a script in the decode engine sees it: figures of its last report."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, NoReturn

from scripted_core.errors import CapabilityMissing
from scripted_core.views import QueueView, RequestView

from scripted_hook.pair.views import PREFILL_SUFFIX, PoolFigures, SideView

MAIN_POOL: Final = f"full{PREFILL_SUFFIX}"


class RemoteSide:
    """``t.prefill``: queues, requests and figures, and no live objects."""

    pool = MAIN_POOL

    def __init__(self, view: Callable[[], SideView]) -> None:
        self._view = view

    @property
    def is_paused(self) -> bool:
        """Whether a pause is in force there."""
        return self._view().is_paused

    def queues(self) -> QueueView:
        """The rids in its queues."""
        return self._view().queues

    def request(self, rid: str) -> RequestView | None:
        """Its own view of one live request."""
        return self._view().request(rid)


class RemoteKvPool:
    """A KV pool of the prefill engine: pages are held there, by an operation that is posted to it."""

    def __init__(self, figures: Callable[[], PoolFigures], *, name: str) -> None:
        self._figures = figures
        self.name = name
        self.page_size = figures().page_size

    @property
    def total(self) -> int:
        """Pages in the pool."""
        return self._figures().total

    @property
    def available(self) -> int:
        """Pages on the free list."""
        return self._figures().available

    @property
    def evictable(self) -> int:
        """Pages that the prefix tree would give up."""
        return self._figures().evictable

    @property
    def held(self) -> int:
        """Pages in holds."""
        return self._figures().held

    def hold(self, n: int) -> NoReturn:
        """Its pages are in another process."""
        raise CapabilityMissing(
            f"{n} pages of {self.name!r} cannot be held from here: the pool is in the prefill engine's "
            "process",
            hint="use t.prefill.exhaust_kv(leave_pages=...)",
        )

    def release(self, hold: object) -> None:
        """There is no hold of it in this process."""
