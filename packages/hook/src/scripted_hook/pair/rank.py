"""The hook's rank in a pair of servers: the scheduler that leads, and the one that follows."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import zmq
from scripted_core.errors import ScriptedError
from scripted_core.logs import get_logger
from scripted_core.ops import Continue, ControlReceipt, ReleaseHeld
from scripted_core.ranks import RankView, view_of
from scripted_core.wire.address import SessionAddress
from scripted_registry import PluginManager, Violation, get_plugin_manager

from scripted_hook.adapter import BatchFacts, EngineAdapter
from scripted_hook.invariants import check_audit
from scripted_hook.pair import messages
from scripted_hook.pair.partner import Partner
from scripted_hook.pair.ports import CountsMessages, FollowsPair
from scripted_hook.pair.views import SideView, figures_of
from scripted_hook.rank import LoneRank, QuietRank

_log = get_logger("scripted.hook")


class PairLead(LoneRank):
    """The decode scheduler: before each iteration of a script the prefill scheduler runs one."""

    def __init__(self, *, adapter: EngineAdapter, partner: Partner) -> None:
        super().__init__(adapter)
        self._partner = partner
        self._counts = adapter if isinstance(adapter, CountsMessages) else None

    def before_iteration(self, *, check_invariants: bool) -> Sequence[BatchFacts]:
        """Let the prefill engine run, and wait for what it has sent."""
        batches = self._partner.iterate(check_invariants=check_invariants)
        if self._counts is not None:
            self._counts.await_messages(self._partner.view.sent)
        return batches

    def after_iteration(self, step: int, *, compare: bool) -> Sequence[Violation]:
        """What the prefill engine has found in itself."""
        return self._partner.take_violations(step=step)

    def take_failure(self) -> ScriptedError | None:
        """An operation on memory that could not be applied there is the script's to know of."""
        return self._partner.take_failure()


class PairFollower(QuietRank):
    """The prefill scheduler: held while a script runs, it iterates when it is told to."""

    def __init__(
        self,
        *,
        adapter: FollowsPair,
        address: SessionAddress,
        plugins: PluginManager | None = None,
    ) -> None:
        self._adapter = adapter
        self._counts = adapter if isinstance(adapter, CountsMessages) else None
        self._plugins = plugins or get_plugin_manager()
        self._token = address.token
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.PAIR)
        self._socket.linger = 0
        self._socket.connect(address.partner)
        self.is_held = False
        self._iteration: messages.Iterate | None = None
        self._batches: list[BatchFacts] = []
        self._receipts: dict[int, ControlReceipt] = {}
        self._failure: messages.Failure | None = None

    # -- what the hook asks --------------------------------------------------------------------

    def follow(self) -> bool:
        """Report the iteration that has ended; while held, wait for what is to be done next."""
        if self._iteration is not None:
            self._report(check_invariants=self._iteration.check_invariants)
            self._iteration = None
        elif self._socket.poll(0):
            self._take()
        while self.is_held and self._iteration is None:
            self._take()
        return True

    def pollables(self) -> tuple[Any, ...]:
        """The socket of the decode scheduler."""
        return (self._socket,)

    def saw_batch(self, batch: Any) -> None:
        """A batch of an iteration of a script is reported."""
        if self.is_held:
            self._batches.append(self._adapter.describe_batch(batch))

    def keeps_failure(self, error: Exception, *, step: int) -> bool:
        """The script gets to know with the report."""
        if not self.is_held:
            return False
        if isinstance(error, ScriptedError):
            self._failure = messages.Failure(error.code, error.message, error.hint)
        else:
            text = f"{type(error).__name__}: {error}"
            self._failure = messages.Failure("engine-error", text, None)
        return True

    def views(self, step: int) -> Sequence[RankView]:
        """Itself."""
        return (view_of(self._adapter, rank="", step=step),)

    def close(self) -> None:
        """Close the socket; nothing that is unsent is waited for."""
        self._socket.close()
        self._context.term()

    # -- what it is told -----------------------------------------------------------------------

    def _take(self) -> None:
        message = messages.for_prefill(self._socket.recv_multipart(), token=self._token)
        match message:
            case messages.Hold():
                self._adapter.begin_hold()
                self.is_held = True
                self._report(check_invariants=False)
            case messages.Expect(rid=rid):
                self._adapter.expect(rid)
            case messages.AwaitArrival(rid=rid):
                self._await(rid)
            case messages.Iterate():
                self._begin(message)
            case messages.Release():
                self._release()
            case messages.NotComing():
                pass  # it came after the request had arrived
            case None:
                _log.warning("a stranger's frames passed over")

    def _await(self, rid: str) -> None:
        self._adapter.await_arrival(
            rid,
            cancelled=lambda: bool(self._socket.poll(0)),
            wake_fd=self._socket.FD,
        )
        messages.send(self._socket, messages.Arrived(rid), token=self._token)

    def _begin(self, message: messages.Iterate) -> None:
        if self._counts is not None:
            self._counts.await_messages(message.received)
        for posted in message.ops:
            self._receipts[posted.number] = self._adapter.control(posted.op)
        self._iteration = message

    def _release(self) -> None:
        self.is_held = False
        self._receipts.clear()
        if self._adapter.is_paused:
            self._adapter.control(Continue())
        self._adapter.control(ReleaseHeld())
        self._adapter.end_hold()

    # -- what it says --------------------------------------------------------------------------

    def _report(self, *, check_invariants: bool) -> None:
        settled = {
            number: receipt for number, receipt in self._receipts.items() if receipt.ok is not None
        }
        for number in settled:
            del self._receipts[number]
        report = messages.Report(
            pid=os.getpid(),
            view=self._view(),
            batches=tuple(self._batches),
            violations=self._violations() if check_invariants else (),
            settled=tuple(
                messages.Settled(number, bool(receipt.ok), receipt.message)
                for number, receipt in settled.items()
            ),
            failure=self._failure,
        )
        self._batches.clear()
        self._failure = None
        messages.send(self._socket, report, token=self._token)

    def _view(self) -> SideView:
        adapter = self._adapter
        return SideView(
            queues=adapter.queues(),
            requests=tuple(adapter.requests()),
            stages=dict(adapter.pair_stages()),
            pools={name: figures_of(pool) for name, pool in adapter.kv_pools.items()},
            is_paused=adapter.is_paused,
            is_idle=adapter.is_idle(),
            is_fully_idle=adapter.is_fully_idle(),
            sent=0 if self._counts is None else self._counts.messages_sent(),
        )

    def _violations(self) -> tuple[Violation, ...]:
        audit = self._adapter.audit()
        found = check_audit(audit, step=0)
        if self._plugins.has_impls("scripted_check_invariants"):
            found.extend(self._plugins.check_invariants(audit, step=0))
        return tuple(found)
