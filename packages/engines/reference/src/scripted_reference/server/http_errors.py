"""Errors as a client gets them: JSON with a message, and a status that says whose mistake it is."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from http import HTTPStatus

import msgspec
from aiohttp import web


class RequestError(Exception):
    """A request cannot be answered as asked; `status` is 400 unless it is said to be another."""

    def __init__(self, message: str, *, status: HTTPStatus = HTTPStatus.BAD_REQUEST) -> None:
        super().__init__(message)
        self.status = status


def error_body(message: str, status: int) -> dict[str, dict[str, object]]:
    """The body of an error, with the fields that SGLang and OpenAI name so."""
    kind = "invalid_request_error" if status < 500 else "internal_server_error"
    return {"error": {"message": message, "type": kind, "code": status}}


def json_response(body: object, *, status: int = 200) -> web.Response:
    """A JSON response."""
    return web.Response(
        body=msgspec.json.encode(body), status=status, content_type="application/json"
    )


@web.middleware
async def errors_as_json(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    """Turn what a handler raises into an answer; a mistake of our own is logged and is a 500."""
    try:
        return await handler(request)
    except RequestError as error:
        return json_response(error_body(str(error), error.status), status=error.status)
    except web.HTTPException as error:
        message = f"{request.method} {request.path}: {error.reason}"
        response = json_response(error_body(message, error.status), status=error.status)
        if "Allow" in error.headers:
            response.headers["Allow"] = error.headers["Allow"]
        return response
    except ConnectionResetError:
        raise  # the client is gone, and wants no answer
    except Exception as error:
        from scripted_core.logs import get_logger  # costs a start some 80 ms, and is rarely needed

        get_logger("scripted.reference.server").exception("a request failed", path=request.path)
        message = f"{type(error).__name__}: {error}"
        return json_response(error_body(message, 500), status=500)
