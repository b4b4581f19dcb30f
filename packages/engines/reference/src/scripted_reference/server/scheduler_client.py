"""The scheduler as the routes see it: requests go in, their outputs come back, calls are answered."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import Callable
from functools import partial
from http import HTTPStatus

import zmq
import zmq.asyncio
from scripted_core.kv_report import KvUntil

from scripted_reference.server import wire
from scripted_reference.server.generation import Generation
from scripted_reference.server.http_errors import RequestError


class SchedulerClient:
    """Both sockets, the live requests and the unanswered calls.

    Whatever is sent arrives in the order in which it was sent. A rid is free again when the scheduler
    has said that its request has ended.
    """

    def __init__(self, endpoints: wire.Endpoints) -> None:
        self._context = zmq.asyncio.Context()
        self._requests = self._context.socket(zmq.PUSH)
        self._outputs = self._context.socket(zmq.PULL)
        for socket, endpoint in (
            (self._requests, endpoints.requests),
            (self._outputs, endpoints.outputs),
        ):
            wire.unlimited(socket)
            socket.bind(endpoint)
        self._generations: dict[str, Generation] = {}
        self._calls: dict[int, asyncio.Future[wire.Reply]] = {}
        self._call_ids = itertools.count(1)
        self._closed: RequestError | None = None
        self.ready: asyncio.Future[wire.Ready] = asyncio.get_running_loop().create_future()

    async def receive_forever(self) -> None:
        """Hand on what the scheduler sends."""
        while True:
            message = wire.decode_for_front(await self._outputs.recv())
            match message:
                case wire.Outputs(items=items):
                    for output in items:
                        self._hand_on(output)
                case wire.Reply(call_id=call_id):
                    future = self._calls.pop(call_id, None)
                    if future is not None and not future.done():
                        future.set_result(message)
                case wire.Ready():
                    self.ready.set_result(message)

    def _hand_on(self, output: wire.Output) -> None:
        generation = self._generations.get(output.rid)
        if generation is None:
            return
        if output.finish is not None:
            # Before the client can know of the end, so that it may use the rid again at once.
            del self._generations[output.rid]
        generation.receive(output)

    # -- requests ------------------------------------------------------------------------------

    def is_live(self, rid: str) -> bool:
        """Whether a request with this id has not ended."""
        return rid in self._generations

    async def start(self, generation: Generation) -> None:
        """Send a request on its way."""
        self._refuse_if_closed()
        self._generations[generation.rid] = generation
        await self._send(generation.spec)

    async def abandon(self, generation: Generation) -> None:
        """Nobody waits for this request any more: end it if it has not ended."""
        if self._generations.get(generation.rid) is generation:
            await self._send(wire.Abort(generation.rid, "the client has gone away"))

    async def abort(self, rid: str | None) -> None:
        """Abort one request, or all."""
        await self._send(wire.Abort(rid))

    # -- calls ---------------------------------------------------------------------------------

    async def call(
        self, make: Callable[[int], wire.Call], *, timeout_s: float | None = None
    ) -> wire.Reply:
        """Send the call that `make` makes of an id, and wait for its answer.

        Raises `RequestError` when the scheduler has ended, or has not answered within `timeout_s`.
        """
        self._refuse_if_closed()
        call_id = next(self._call_ids)
        future: asyncio.Future[wire.Reply] = asyncio.get_running_loop().create_future()
        self._calls[call_id] = future
        try:
            await self._send(make(call_id))
            async with asyncio.timeout(timeout_s):
                return await future
        except TimeoutError:
            raise RequestError(
                f"the scheduler has not answered within {timeout_s:g} s",
                status=HTTPStatus.SERVICE_UNAVAILABLE,
            ) from None
        finally:
            self._calls.pop(call_id, None)

    async def state(self, *, timeout_s: float | None = 5.0) -> wire.EngineState:
        """The engine's state now."""
        reply = await self.call(wire.GetState, timeout_s=timeout_s)
        assert reply.state is not None, "the answer to GetState has a state"
        return reply.state

    async def state_when(self, until: KvUntil, *, after: int, timeout_s: float) -> wire.EngineState:
        """The engine's state as soon as something has come, or else as it is after `timeout_s`."""
        if until is not KvUntil.NOW and timeout_s > 0:
            ask = partial(wire.GetState, until=until, after=after, within_s=timeout_s)
            with contextlib.suppress(RequestError):  # it has not come, or the scheduler has ended
                reply = await self.call(ask, timeout_s=timeout_s)
                assert reply.state is not None, "the answer to GetState has a state"
                return reply.state
        return await self.state()

    # -- end -----------------------------------------------------------------------------------

    def fail_all(self, message: str) -> None:
        """Nothing will come any more: every waiting client is told so, and no request is taken."""
        self._closed = RequestError(message, status=HTTPStatus.SERVICE_UNAVAILABLE)
        for generation in self._generations.values():
            generation.receive(self._closed)
        for future in self._calls.values():
            if not future.done():
                future.set_exception(self._closed)
        self._generations.clear()

    def close(self) -> None:
        """Close the sockets."""
        self._context.destroy(linger=0)

    def _refuse_if_closed(self) -> None:
        if self._closed is not None:
            raise self._closed

    async def _send(self, message: wire.ToScheduler) -> None:
        await self._requests.send(wire.encode(message))
