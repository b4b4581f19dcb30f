"""Pools of numbered KV pages and request rows."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from scripted_core.errors import ExhaustError
from scripted_core.memory_ports import Hold


@dataclass(frozen=True, eq=False)
class FakeHold:
    """Ids taken out of circulation; equal to nothing but itself."""

    ids: tuple[int, ...]

    @property
    def count(self) -> int:
        """How many ids are held."""
        return len(self.ids)


class _IdPool:
    """Ids ``0 … total - 1``; the smallest free one is given out first."""

    def __init__(self, *, total: int, unit: str) -> None:
        self.total = total
        self._unit = unit
        self._free = list(range(total))
        self._holds: list[FakeHold] = []

    @property
    def available(self) -> int:
        """Ids on the free list."""
        return len(self._free)

    @property
    def held(self) -> int:
        """Ids in holds."""
        return sum(hold.count for hold in self._holds)

    @property
    def free_ids(self) -> tuple[int, ...]:
        """The free list."""
        return tuple(self._free)

    @property
    def held_ids(self) -> tuple[int, ...]:
        """All ids in holds."""
        return tuple(one for hold in self._holds for one in hold.ids)

    def allocate(self, n: int) -> list[int]:
        """Take ``n`` ids for an owner that gives them back with :meth:`free`."""
        if n > len(self._free):
            raise ExhaustError(
                f"{n} {self._unit} were asked for and {len(self._free)} are free",
                hint=f"ask for 0 to {len(self._free)}",
            )
        taken, self._free = self._free[:n], self._free[n:]
        return taken

    def free(self, ids: Iterable[int]) -> None:
        """Put ids back. A double free is not refused: a test may want to make one."""
        self._free = sorted([*self._free, *ids])

    def hold(self, n: int) -> FakeHold:
        """Take ``n`` free ids out of circulation; ``ExhaustError`` when fewer are free."""
        hold = FakeHold(tuple(self.allocate(n)))
        self._holds.append(hold)
        return hold

    def release(self, hold: Hold) -> None:
        """Give a hold back; ``ExhaustError`` when it is not one of this pool's, or a second time."""
        own = next((one for one in self._holds if one is hold), None)
        if own is None:
            raise ExhaustError(
                f"a hold of {hold.count} {self._unit} is not in force in this pool",
                hint="release a hold once, to the pool that gave it",
            )
        self._holds.remove(own)
        self.free(own.ids)


class FakeKvPool(_IdPool):
    """A KV pool of ``total`` pages of ``page_size`` tokens.

    ``count_evictable`` gives the pages that a prefix tree would give up, if there is a tree.
    """

    def __init__(
        self,
        *,
        name: str = "full",
        total: int = 64,
        page_size: int = 4,
        count_evictable: Callable[[], int] = lambda: 0,
    ) -> None:
        super().__init__(total=total, unit="pages")
        self.name = name
        self.page_size = page_size
        self._count_evictable = count_evictable

    @property
    def evictable(self) -> int:
        """Pages that the prefix tree would give up for a request."""
        return self._count_evictable()


class FakeRowPool(_IdPool):
    """A pool of ``total`` request rows."""

    def __init__(self, *, total: int = 8) -> None:
        super().__init__(total=total, unit="rows")
