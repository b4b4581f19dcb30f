"""What the canary of this server's KV has found, and whether it runs."""

from __future__ import annotations

import math
from http import HTTPStatus

from aiohttp import web
from scripted_core.kv_report import KV_REPORT_PATH, KvStatus, KvUntil, status_to_json

from scripted_reference.args import ServerArgs
from scripted_reference.server.context import FrontContext
from scripted_reference.server.http_errors import RequestError
from scripted_reference.server.wire import EngineState

_LONGEST_S = 600.0
_HEALTH_TIMEOUT_S = 5.0


def wants_canary(args: ServerArgs) -> bool:
    """Whether an engine with these arguments is to have a canary."""
    return args.kv_canary not in (None, "none")


class CanaryRoutes:
    """Reads only; nothing here waits for a script that holds the engine."""

    def __init__(self, context: FrontContext) -> None:
        self._context = context

    def routes(self) -> list[web.RouteDef]:
        """Paths and handlers."""
        return [
            web.get(KV_REPORT_PATH, self.status),
            web.get("/health", self.health),
        ]

    async def status(self, request: web.Request) -> web.Response:
        """A `KvStatus`; 404 unless the server was started with a canary.

        With `until=idle`, or `until=violation&after=N` (more of them than N), it is answered when that
        has come, or after `timeout_s`.
        """
        if not wants_canary(self._context.args):
            raise RequestError(
                "there is no KV canary: start the server with kv_canary='log' or 'raise'",
                status=HTTPStatus.NOT_FOUND,
            )
        query = request.query
        try:
            until = KvUntil(query.get("until", KvUntil.NOW))
        except ValueError:
            known = ", ".join(one.value for one in KvUntil)
            raise RequestError(f"until={query['until']!r} is none of {known}") from None
        state = await self._context.client.state_when(
            until,
            after=int(_number(query.get("after", "0"), name="after", most=math.inf)),
            timeout_s=_number(query.get("timeout_s", "0"), name="timeout_s", most=_LONGEST_S),
        )
        body = status_to_json(KvStatus(is_idle=state.is_idle, report=state.kv))
        return web.Response(body=body, content_type="application/json")

    async def health(self, request: web.Request) -> web.Response:
        """200 from the moment on at which requests are taken; 503 once a canary has stopped running.

        A scheduler that is too busy to say is not unhealthy.
        """
        if wants_canary(self._context.args):
            try:
                state = await self._context.client.state(timeout_s=_HEALTH_TIMEOUT_S)
            except RequestError:
                return web.Response()
            problem = self.problem(state)
            if problem is not None:
                raise RequestError(problem, status=HTTPStatus.SERVICE_UNAVAILABLE)
        return web.Response()

    def problem(self, state: EngineState) -> str | None:
        """What is wrong with the canary; `None` when it runs as it should."""
        if state.kv is None:
            mode = self._context.args.kv_canary
            return f"no KV canary runs, although kv_canary={mode!r} asks for one (scripted-canary)"
        if state.kv.stopped:
            return f"the KV canary has stopped running: {'; '.join(state.kv.stopped)}"
        return None


def _number(text: str, *, name: str, most: float) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not 0 <= number <= most or not math.isfinite(number):
        limit = "" if math.isinf(most) else f" to {most:g}"
        raise RequestError(f"{name}={text!r} is no number from 0{limit}")
    return number
