"""The driver rank's look at all others: what they report, and whether they are alike."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Protocol

import msgspec
import zmq
from scripted_core.errors import HandshakeError
from scripted_core.logs import get_logger
from scripted_core.ranks import RankReport, RankView, unseen, view_of
from scripted_core.wire.address import SessionAddress
from scripted_core.wire.messages import decode
from scripted_registry import Violation

from scripted_hook.adapter import EngineAdapter
from scripted_hook.rank import QuietRank
from scripted_hook.ranks import RankedAdapter, ScriptBegins, ScriptEnds

_log = get_logger("scripted.hook")


class ReportReceiver(Protocol):
    """The driver's end of the way from all other ranks."""

    def receive(self) -> RankReport:
        """The next report of any rank; waits for it."""
        ...


class DrivingRank(QuietRank):
    """Waits after each iteration of a script for the report of every other rank.

    A later pipeline stage ends an iteration only when the stage before it is one further, so the
    latest that can be waited for is ``other_ranks[rank]`` iterations old. Exactly that one is looked
    at, so that a script sees the same in every run. There is no deadline of its own: a rank that ends
    or hangs is noticed by the session, as the driver's own end or hang is.
    """

    def __init__(
        self,
        *,
        adapter: EngineAdapter,
        ranks: RankedAdapter,
        receiver: ReportReceiver,
    ) -> None:
        self._adapter = adapter
        self._ranks = ranks
        self._rank = ranks.rank
        self._others = dict(ranks.other_ranks)
        self._independent = ranks.independent_ranks
        self.lag = max(self._others.values(), default=0)
        self.others = len(self._others)
        self._receiver = receiver
        self._forget(run=0)

    def _forget(self, *, run: int) -> None:
        self._run = run
        self._reports: dict[tuple[str, int], RankReport] = {}
        self._own: dict[int, RankView] = {}
        self._failed_here: set[int] = set()

    def follow(self) -> bool:
        """It runs the scripts."""
        return False

    def begin(self, *, run: int, check_invariants: bool) -> None:
        """A script begins with the coming iteration."""
        self._forget(run=run)
        self._ranks.tell_ranks(ScriptBegins(run, check_invariants))

    def end(self, *, run: int) -> None:
        """The script is over."""
        self._ranks.tell_ranks(ScriptEnds(run))

    def keeps_failure(self, error: Exception, *, step: int) -> bool:
        """The script gets to know at once; that other ranks fail at it too is then no difference."""
        self._failed_here.add(step)
        return False

    def after_iteration(self, step: int, *, compare: bool) -> list[Violation]:
        """What is wrong on other ranks after ``step``; a later stage is seen ``lag`` iterations late.

        With ``compare`` a rank that is not like the driver was after this same iteration is one too.
        """
        if compare:
            self._own[step] = self._mine(step)
        found: list[Violation] = []
        for rank, behind in self._others.items():
            seen = step - behind
            if seen >= 1:
                found.extend(self._found_on(self._await(rank, seen)))
        self._forget_before(step - self.lag)
        return found

    def views(self, step: int) -> Sequence[RankView]:
        """The driver as it is now, and each other rank as it last reported."""
        return (
            self._mine(step),
            *(self._last_seen(rank, step - lag) for rank, lag in self._others.items()),
        )

    def _mine(self, step: int) -> RankView:
        view = view_of(self._adapter, rank=self._rank, step=step)
        return msgspec.structs.replace(view, queues=self._ranks.own_queues())

    def _last_seen(self, rank: str, step: int) -> RankView:
        report = self._reports.get((rank, step))
        return unseen(rank) if report is None else report.view

    def _await(self, rank: str, step: int) -> RankReport:
        while (rank, step) not in self._reports:
            report = self._receiver.receive()
            if report.run == self._run:
                self._reports[report.view.rank, report.view.step] = report
        return self._reports[rank, step]

    def _found_on(self, report: RankReport) -> list[Violation]:
        view = report.view
        where = f"on rank {view.rank} (pid {report.pid}): "
        found = [dataclasses.replace(one, message=where + one.message) for one in report.violations]
        if report.error and view.step not in self._failed_here:
            found.append(
                Violation(
                    step=view.step,
                    code="rank-operation-failed",
                    message=f"{where}a memory operation failed there alone: {report.error}",
                    subject=view.rank,
                )
            )
        alike = view.rank not in self._independent
        own = self._own.get(view.step) if alike else None
        differences = () if own is None else view.differences(own)
        if differences:
            found.append(
                Violation(
                    step=view.step,
                    code="ranks-differ",
                    message=where + "; ".join(differences),
                    subject=view.rank,
                )
            )
        return found

    def _forget_before(self, step: int) -> None:
        # What was looked at last is still asked for by views().
        self._own = {at: view for at, view in self._own.items() if at >= step}
        self._reports = {key: one for key, one in self._reports.items() if key[1] >= step}


class SocketReceiver:
    """Reports from a socket of the session."""

    def __init__(self, address: SessionAddress) -> None:
        self._token = address.token
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.PULL)
        self._socket.linger = 0
        self._socket.bind(address.ranks)

    def receive(self) -> RankReport:
        """The next report of any rank; waits for it."""
        while True:
            try:
                message = decode(self._socket.recv(), token=self._token)
            except HandshakeError as error:  # a stranger's frame must not end the scheduler
                _log.warning("bad frame passed over", error=str(error))
                continue
            if isinstance(message, RankReport):
                return message
            _log.warning("unexpected message", message=type(message).__name__)

    def close(self) -> None:
        """Close the socket; nothing that is unsent is waited for."""
        self._socket.close()
        self._context.term()
