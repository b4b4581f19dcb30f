"""The decode scheduler's end: it tells the prefill scheduler what to do, and waits until it is done."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Sequence
from functools import partial

import zmq
from scripted_core.errors import ReplyTimeout, error_from_code
from scripted_core.ops import ControlOp, ControlReceipt, Exhaust
from scripted_core.wire.address import SessionAddress
from scripted_registry import ScriptedError, Violation

from scripted_hook.adapter import BatchFacts
from scripted_hook.pair import messages
from scripted_hook.pair.remote import RemoteKvPool, RemoteSide
from scripted_hook.pair.views import PREFILL_SUFFIX, PoolFigures, SideView


class Partner:
    """The prefill engine of a pair of servers, as the decode engine's adapter has it.

    There is no deadline of its own: a prefill scheduler that ends or hangs is noticed by the session,
    as this process's own end or hang is.

    Attributes:
        pools: its KV pools, by the names that they have here; empty until it is first held.
        sent: how many messages this engine has sent to it; set by an adapter that counts them.
    """

    def __init__(self, address: SessionAddress, *, sent: Callable[[], int] = lambda: 0) -> None:
        self._token = address.token
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.PAIR)
        self._socket.linger = 0
        self._socket.bind(address.partner)
        self.sent = sent
        self.pools: dict[str, RemoteKvPool] = {}
        self._view = SideView()
        self._pid = 0
        self._violations: tuple[Violation, ...] = ()
        self._ops: list[messages.Posted] = []
        self._receipts: dict[int, tuple[ControlReceipt, bool]] = {}
        self._failure: messages.Failure | None = None
        self._numbers = 0
        self._held = False

    @property
    def view(self) -> SideView:
        """The engine after its last iteration."""
        return self._view

    def side(self) -> RemoteSide:
        """``t.prefill``."""
        return RemoteSide(lambda: self._view)

    # -- a script begins and ends --------------------------------------------------------------

    def hold(self) -> None:
        """Keep the engine from running by itself; returns when it stands still."""
        self._send(messages.Hold())
        self._held = True
        self._report()

    def release(self) -> None:
        """Let it run free; what was posted and not applied is dropped, since the script is over."""
        if self._held:
            self._held = False
            self._ops.clear()
            self._receipts.clear()
            self._violations = ()
            self._send(messages.Release())

    # -- requests and operations ---------------------------------------------------------------

    def expect(self, rid: str) -> None:
        """A request of the script's own is about to be sent."""
        self._send(messages.Expect(rid))

    def await_arrival(
        self, rid: str, *, ended: Callable[[], bool], wake_fd: int, timeout_s: float
    ) -> bool:
        """Wait until it is in the prefill engine's inbox; False when ``ended`` says so first.

        ``ended`` is asked whenever there is input on ``wake_fd``. Raises ``ReplyTimeout`` when neither
        happens in time.
        """
        self._send(messages.AwaitArrival(rid))
        deadline = time.monotonic() + timeout_s
        poller = zmq.Poller()
        poller.register(self._socket, zmq.POLLIN)
        poller.register(wake_fd, zmq.POLLIN)
        while True:
            while self._socket.poll(0):
                if self._has_arrived(self._receive(), rid):
                    return True
            if ended():
                break
            left_s = deadline - time.monotonic()
            if left_s <= 0:
                break
            poller.poll(math.ceil(left_s * 1000))
        # Answered all the same, so that both sides know where they are.
        self._send(messages.NotComing(rid))
        while not self._has_arrived(self._receive(), rid):
            pass
        if not ended():
            raise ReplyTimeout(
                f"request {rid!r} did not arrive in the prefill engine within {timeout_s:g} s",
                hint="the router or the prefill engine's front may be stuck",
            )
        return False

    def _has_arrived(self, message: messages.ToDecode, rid: str) -> bool:
        return isinstance(message, messages.Arrived) and message.rid == rid

    def post(self, op: ControlOp, *, beside: ControlReceipt | None = None) -> ControlReceipt:
        """Have an operation applied there before the coming iteration.

        ``beside`` is the receipt of the same operation here: it takes note of a refusal there, and is
        settled otherwise when the operation takes effect here, which is later.
        """
        self._numbers += 1
        if isinstance(op, Exhaust):
            op = Exhaust(op.name, {key: _there(key, value) for key, value in op.params.items()})
        receipt = ControlReceipt(op) if beside is None else beside
        self._receipts[self._numbers] = (receipt, beside is None)
        self._ops.append(messages.Posted(self._numbers, op))
        return receipt

    def has_pool(self, op: ControlOp) -> bool:
        """Whether an operation is on a pool of the prefill engine alone."""
        return isinstance(op, Exhaust) and op.params.get("pool") in self.pools

    # -- iterations ----------------------------------------------------------------------------

    def iterate(self, *, check_invariants: bool) -> Sequence[BatchFacts]:
        """Let it run one iteration and return the batches of it."""
        ops, self._ops = tuple(self._ops), []
        self._send(messages.Iterate(ops, check_invariants, self.sent()))
        return self._report()

    def take_failure(self) -> ScriptedError | None:
        """What an operation on memory failed with there, if one did in that iteration."""
        failure, self._failure = self._failure, None
        if failure is None:
            return None
        return error_from_code(
            failure.code, f"in the prefill engine: {failure.message}", hint=failure.hint
        )

    def take_violations(self, *, step: int) -> list[Violation]:
        """What its own audit has found after the iteration that belongs to ``step`` here."""
        found, self._violations = self._violations, ()
        return [
            dataclasses.replace(
                one,
                step=step,
                message=f"in the prefill engine (pid {self._pid}): {one.message}",
            )
            for one in found
        ]

    def close(self) -> None:
        """Close the socket; nothing that is unsent is waited for."""
        self._socket.close()
        self._context.term()

    # -- the socket ----------------------------------------------------------------------------

    def _report(self) -> Sequence[BatchFacts]:
        report = self._receive()
        while not isinstance(report, messages.Report):
            report = self._receive()
        self._pid = report.pid
        self._see(report.view)
        self._violations = report.violations
        for one in report.settled:
            receipt, is_alone = self._receipts.pop(one.number, (None, False))
            if receipt is not None and (is_alone or not one.ok):
                receipt.settle(one.ok, one.message)
        self._failure = report.failure
        return report.batches

    def _see(self, view: SideView) -> None:
        self._view = view
        for name in view.pools:
            here = name + PREFILL_SUFFIX
            if here not in self.pools:
                self.pools[here] = RemoteKvPool(partial(self._figures, name), name=here)

    def _figures(self, name: str) -> PoolFigures:
        return self._view.pools[name]

    def _receive(self) -> messages.ToDecode:
        while True:
            message = messages.for_decode(self._socket.recv_multipart(), token=self._token)
            if message is not None:
                return message

    def _send(self, message: messages.ToPrefill) -> None:
        messages.send(self._socket, message, token=self._token)


def _there(key: str, value: object) -> object:
    if key == "pool" and isinstance(value, str):
        return value.removesuffix(PREFILL_SUFFIX)
    return value
