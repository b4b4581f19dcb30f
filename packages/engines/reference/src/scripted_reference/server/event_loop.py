"""The scheduler process's loop: receive, iterate, tell the front; asleep when there is nothing to do."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence

import zmq
from scripted_hook import ScriptedSchedulerHook, ScriptedTokenizerRecvProxy

from scripted_reference.engine import Engine
from scripted_reference.request import Req
from scripted_reference.schedule_batch import ScheduleBatch
from scripted_reference.server import wire
from scripted_reference.server.adapter import ServerAdapter
from scripted_reference.server.dispatch import Dispatcher
from scripted_reference.server.output_stream import OutputStream
from scripted_reference.server.state import EngineMonitor


class EventLoop:
    """Drives an engine until `stop` is called, which a signal handler may do.

    It is the engine's observer: each iteration begins with the script, if there is one, and with
    what the front has sent.
    """

    def __init__(
        self,
        engine: Engine,
        *,
        inbox: ScriptedTokenizerRecvProxy,
        inbox_socket: zmq.Socket[bytes],
        output_socket: zmq.Socket[bytes],
    ) -> None:
        self._engine = engine
        self._inbox = inbox
        self._inbox_socket = inbox_socket
        self._output_socket = output_socket
        self._monitor = EngineMonitor(engine)
        self._outputs = OutputStream(self.send)
        self.dispatcher = Dispatcher(engine, send=self.send, state=self._monitor.now)
        self._adapter: ServerAdapter | None = None
        self._hook: ScriptedSchedulerHook | None = None
        self._stopped = False
        self._wake_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        engine.observer = self

    def attach(self, *, adapter: ServerAdapter, hook: ScriptedSchedulerHook) -> None:
        """Let scripts in."""
        self._adapter = adapter
        self._hook = hook
        self.dispatcher.on_flush = adapter.http_flushed

    def send(self, message: wire.ToFront) -> None:
        """Send to the front, without waiting for it."""
        with contextlib.suppress(zmq.Again):  # the front is gone, and takes this process with it
            self._output_socket.send(wire.encode(message), zmq.NOBLOCK)

    def run(self) -> None:
        """Say that the engine is ready, then iterate until `stop`."""
        self.send(self._ready())
        while not self._stopped:
            self._engine.iterate()
            self._outputs.flush()
            self.dispatcher.flush_replies()
            if self._may_rest():
                self._rest()

    def stop(self) -> None:
        """Return from `run` before the next iteration."""
        self._stopped = True
        os.eventfd_write(self._wake_fd, 1)

    def _ready(self) -> wire.Ready:
        scheduler = self._engine.scheduler
        return wire.Ready(
            pid=os.getpid(),
            limits=scheduler.limits,
            num_replicas=len(self._engine.schedulers),
            eos_token_id=scheduler.model.eos_token_id,
        )

    # -- rest ----------------------------------------------------------------------------------

    def _wire(self) -> Sequence[zmq.Socket[bytes]]:
        return () if self._hook is None else self._hook.pollables()

    def _may_rest(self) -> bool:
        """Whether nothing happens until something is received."""
        if self._hook is not None and not self._hook.may_rest:
            return False
        engine = self._engine
        if engine.is_fully_idle() or engine.scheduler.paused is not None:
            return True
        return engine.waits_for_partner

    def _rest(self) -> None:
        self._monitor.on_idle()
        poller = zmq.Poller()
        poller.register(self._wake_fd, zmq.POLLIN)
        for socket in (self._inbox_socket, *self._wire(), *self._engine.sockets):
            poller.register(socket, zmq.POLLIN)
        poller.poll()

    # -- what the engine tells its observer ----------------------------------------------------

    def before_receive(self) -> None:
        """An iteration begins: the script's turn, then what has arrived goes to the engine."""
        if self._hook is not None:
            self._hook.step()
        while True:
            try:
                message = self._inbox.recv_pyobj(zmq.NOBLOCK)
            except zmq.Again:
                return
            self.dispatcher.deliver(message)

    def on_run_batch(self, batch: ScheduleBatch) -> None:
        """A batch goes to the model."""
        self._monitor.on_run_batch(batch)
        self._outputs.on_run_batch(batch)
        if self._hook is not None:
            self._hook.on_run_batch(batch)

    def on_output(self, reqs: Sequence[Req]) -> None:
        """Requests have new tokens."""
        self._monitor.on_output(reqs)
        self._outputs.on_output(reqs)

    def on_finish(self, req: Req) -> None:
        """A request has ended."""
        self._monitor.on_finish(req)
        self._outputs.on_finish(req)
        if self._adapter is not None:
            self._adapter.on_finish(req)
