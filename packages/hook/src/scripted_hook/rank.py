"""What a rank does for a script beside running it: nothing where it is alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from scripted_core.ranks import RanksAlike, RanksInOneProcess, RankView, view_of
from scripted_registry import ScriptedError, Violation

from scripted_hook.adapter import BatchFacts, EngineAdapter
from scripted_hook.ranks import RankNotice


class Rank(Protocol):
    """The hook's rank: the only one, the driver of several, or one that follows the driver."""

    lag: int
    """Iterations by which the last of the other ranks is behind this one."""
    others: int
    """How many other ranks there are to look at."""
    is_held: bool
    """Whether a script that runs elsewhere has hold of this scheduler."""

    def follow(self) -> bool:
        """An iteration is about to begin; whether this rank runs no scripts, and has done its part."""
        ...

    def begin(self, *, run: int, check_invariants: bool) -> None:
        """A script begins with the coming iteration: all ranks get to know."""
        ...

    def end(self, *, run: int) -> None:
        """The script is over: all ranks get to know."""
        ...

    def before_iteration(self, *, check_invariants: bool) -> Sequence[BatchFacts]:
        """An iteration of a job is about to run here: what other engines have run of it before."""
        ...

    def take_failure(self) -> ScriptedError | None:
        """What an operation on memory failed with there, if one did."""
        ...

    def saw_batch(self, batch: Any) -> None:
        """A batch is about to run here, outside a script of this rank's own."""
        ...

    def pollables(self) -> tuple[Any, ...]:
        """Sockets on which it may be told something while the engine is idle."""
        ...

    def after_iteration(self, step: int, *, compare: bool) -> Sequence[Violation]:
        """What is wrong on other ranks after ``step``."""
        ...

    def views(self, step: int) -> Sequence[RankView]:
        """Every rank, this one first."""
        ...

    def notice(self, notice: RankNotice) -> None:
        """The driver tells of a script, in the iteration in which every rank takes it up."""
        ...

    def keeps_failure(self, error: Exception, *, step: int) -> bool:
        """A memory operation cannot be applied in ``step``; whether it is this rank's to tell of it."""
        ...


class QuietRank:
    """Nobody else is there and nobody asks: what a rank does by default, each part by itself."""

    lag = 0
    others = 0
    is_held = False

    def begin(self, *, run: int, check_invariants: bool) -> None:
        """Nobody has to know."""

    def end(self, *, run: int) -> None:
        """Nobody has to know."""

    def before_iteration(self, *, check_invariants: bool) -> Sequence[BatchFacts]:
        """Nobody runs a part of it before."""
        return ()

    def take_failure(self) -> ScriptedError | None:
        """Nothing fails elsewhere, or it is told of another way."""
        return None

    def saw_batch(self, batch: Any) -> None:
        """Nobody wants to know."""

    def pollables(self) -> tuple[Any, ...]:
        """What it is told comes with the engine's own messages, if at all."""
        return ()

    def after_iteration(self, step: int, *, compare: bool) -> Sequence[Violation]:
        """No other rank is looked at."""
        return ()

    def notice(self, notice: RankNotice) -> None:
        """Nobody tells, or it has told itself."""

    def keeps_failure(self, error: Exception, *, step: int) -> bool:
        """The script gets to know at once."""
        return False


class LoneRank(QuietRank):
    """The only process that schedules; what ranks there are, its adapter has in it."""

    def __init__(self, adapter: EngineAdapter) -> None:
        self._adapter = adapter
        self._alike = adapter if isinstance(adapter, RanksAlike) else None

    def follow(self) -> bool:
        """It runs the scripts."""
        return False

    def after_iteration(self, step: int, *, compare: bool) -> Sequence[Violation]:
        """The adapter's audit is of all there is; what it says of ranks that are not alike is added."""
        if self._alike is None or not compare:
            return ()
        return [
            Violation(
                step=step, code="ranks-differ", message=f"on rank {rank}: {words}", subject=rank
            )
            for rank, words in self._alike.rank_differences().items()
        ]

    def views(self, step: int) -> Sequence[RankView]:
        """What the adapter has, or the one that it is."""
        if isinstance(self._adapter, RanksInOneProcess):
            return self._adapter.rank_views(step)
        return (view_of(self._adapter, rank="", step=step),)
