"""A rank that follows the driver: it audits itself after each iteration of a script, and reports."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Protocol

import zmq
from scripted_core.ranks import RankReport, RankView, view_of
from scripted_core.wire.address import SessionAddress
from scripted_core.wire.messages import encode
from scripted_registry import PluginManager, Violation, get_plugin_manager

from scripted_hook.adapter import EngineAdapter
from scripted_hook.invariants import check_audit
from scripted_hook.rank import QuietRank
from scripted_hook.ranks import RankNotice, ScriptBegins


class ReportSender(Protocol):
    """The way from a rank to the driver rank."""

    def send(self, report: RankReport) -> None:
        """Send without waiting for the driver."""
        ...


class FollowingRank(QuietRank):
    """What the hook of such a rank does at each iteration boundary; nothing between scripts."""

    def __init__(
        self,
        *,
        adapter: EngineAdapter,
        rank: str,
        sender: ReportSender,
        plugins: PluginManager | None = None,
    ) -> None:
        self._adapter = adapter
        self._rank = rank
        self._sender = sender
        self._plugins = plugins or get_plugin_manager()
        self._plugins_check = self._plugins.has_impls("scripted_check_invariants")
        self._script: ScriptBegins | None = None
        self._step = 0
        self._errors: list[str] = []

    def notice(self, notice: RankNotice) -> None:
        """A script begins with the iteration that is running, or the last one has ended."""
        self._script = notice if isinstance(notice, ScriptBegins) else None
        self._step = 0
        self._errors.clear()

    def keeps_failure(self, error: Exception, *, step: int) -> bool:
        """The driver rank gets to know with the next report; between scripts there is nobody to tell."""
        if self._script is None:
            return False
        self._errors.append(f"{type(error).__name__}: {error}")
        return True

    def views(self, step: int) -> Sequence[RankView]:
        """Itself."""
        return (view_of(self._adapter, rank=self._rank, step=self._step),)

    def follow(self) -> bool:
        """An iteration has ended: report it, if it was one of a script."""
        if self._script is not None:
            self._report(self._script)
        return True

    def _report(self, script: ScriptBegins) -> None:
        self._step += 1
        self._sender.send(
            RankReport(
                pid=os.getpid(),
                run=script.run,
                view=view_of(self._adapter, rank=self._rank, step=self._step),
                violations=self._violations() if script.check_invariants else (),
                error="; ".join(self._errors),
            )
        )
        self._errors.clear()

    def _violations(self) -> tuple[Violation, ...]:
        audit = self._adapter.audit()
        found = check_audit(audit, step=self._step)
        if self._plugins_check:
            found.extend(self._plugins.check_invariants(audit, step=self._step))
        return tuple(found)


class SocketReports:
    """Reports over a socket of the session."""

    def __init__(self, address: SessionAddress) -> None:
        self._token = address.token
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.PUSH)
        self._socket.linger = 0
        self._socket.connect(address.ranks)

    def send(self, report: RankReport) -> None:
        """Send without waiting for the driver."""
        self._socket.send(encode(report, token=self._token), zmq.NOBLOCK)

    def close(self) -> None:
        """Close the socket; nothing that is unsent is waited for."""
        self._socket.close()
        self._context.term()
