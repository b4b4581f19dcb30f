"""Pause, continue, abort, flush."""

from __future__ import annotations

from functools import partial
from http import HTTPStatus

from aiohttp import web

from scripted_reference.messages import PauseMode
from scripted_reference.server import wire
from scripted_reference.server.bodies import AbortBody, ContinueBody, PauseBody, read_body
from scripted_reference.server.context import FrontContext
from scripted_reference.server.http_errors import RequestError, json_response

_ABORT_MODE = "abort"
_PAUSE_MODES = (_ABORT_MODE, *(mode.value for mode in PauseMode))


class ControlRoutes:
    """Each is answered when it has taken effect, but for an abort, which is answered at once."""

    def __init__(self, context: FrontContext) -> None:
        self._client = context.client

    def routes(self) -> list[web.RouteDef]:
        """Paths and handlers."""
        return [
            web.post("/pause_generation", self.pause),
            web.post("/continue_generation", self.resume),
            web.post("/abort_request", self.abort),
            web.get("/flush_cache", self.flush),
            web.post("/flush_cache", self.flush),
        ]

    async def pause(self, request: web.Request) -> web.Response:
        """Stop scheduling. New requests are still taken, and queue until the continue.

        `abort`, SGLang's default, ends all requests first.
        """
        body = await read_body(request, PauseBody, may_be_empty=True)
        if body.mode not in _PAUSE_MODES:
            raise RequestError(f"mode {body.mode!r} is none of {', '.join(_PAUSE_MODES)}")
        mode = body.mode
        if mode == _ABORT_MODE:
            await self._client.abort(None)
            mode = PauseMode.RETRACT.value
        await self._client.call(partial(wire.Pause, mode=mode))
        return json_response({"message": "Generation paused successfully.", "status": "ok"})

    async def resume(self, request: web.Request) -> web.Response:
        """Go on scheduling."""
        await read_body(request, ContinueBody, may_be_empty=True)
        await self._client.call(wire.Continue)
        return json_response({"message": "Generation continued successfully.", "status": "ok"})

    async def abort(self, request: web.Request) -> web.Response:
        """Abort one request, or all; a rid that no live request has is no error."""
        body = await read_body(request, AbortBody)
        if not body.abort_all and not body.rid:
            raise RequestError("give rid, or abort_all=true")
        await self._client.abort(None if body.abort_all else body.rid)
        return web.Response()

    async def flush(self, request: web.Request) -> web.Response:
        """Empty the prefix tree; 400 when the engine is not idle."""
        reply = await self._client.call(wire.Flush)
        if reply.ok:
            return web.Response(text="Cache flushed.\n")
        return web.Response(text=reply.message, status=HTTPStatus.BAD_REQUEST)
