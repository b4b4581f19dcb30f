"""Engines with a scheduler process for each rank: who they are, and what they are told of a script."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol, runtime_checkable

import msgspec
from scripted_core.views import QueueView


class ScriptBegins(msgspec.Struct, frozen=True, tag=True):
    """To every rank: iterations count from here, and each is reported.

    ``run`` is the script's number in its session. With ``check_invariants`` every rank audits itself.
    """

    run: int
    check_invariants: bool


class ScriptEnds(msgspec.Struct, frozen=True, tag=True):
    """To every rank: nothing is reported any more."""

    run: int


RankNotice = ScriptBegins | ScriptEnds


@runtime_checkable
class RankedAdapter(Protocol):
    """What an adapter adds to :class:`~scripted_hook.adapter.EngineAdapter` in such an engine.

    On every rank a hook is attached to the scheduler, and ``step()`` is called in each iteration. A
    notice that comes out of the inbox goes to ``ScriptedSchedulerHook.apply_rank_notice``.
    """

    rank: str
    """The name of this rank, such as ``"pp0 tp1"``; empty when it is the only one."""

    other_ranks: Mapping[str, int]
    """On the driver rank, the names of all others, each with how many iterations it may be behind.

    That is how many pipeline stages there are before it: a stage can end an iteration only when the
    stage before it is one further. A rank that shares every iteration with the driver has 0.
    """

    independent_ranks: frozenset[str]
    """Those of them that serve other requests (data-parallel replicas): they need not be alike."""

    def own_queues(self) -> QueueView:
        """The queues of this rank alone, where ``queues()`` are also those of other replicas."""
        ...

    def tell_ranks(self, notice: RankNotice) -> None:
        """Put a notice into the inbox, behind what has arrived, for every rank including this one.

        It has to travel as memory operations do: taken up in the same iteration on every rank.
        """
        ...


@runtime_checkable
class RankEvents(Protocol):
    """What such an adapter reports to beside :class:`~scripted_hook.adapter.EngineEvents`."""

    def apply_rank_notice(self, notice: RankNotice) -> None:
        """A notice came out of the inbox of this rank."""
        ...
