"""HTTP with a server that may refuse, hang, or die: each of these is said as such."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, Self

import aiohttp
from aiohttp.http_exceptions import LineTooLong
from scripted_core.errors import EngineDied, ScriptedError

from scripted_kit_client.errors import (
    CheckFailed,
    ConnectionBroken,
    RequestRefused,
    RequestTimedOut,
    ServerUnreachable,
)
from scripted_kit_client.target import Target

_HEALTH_TIMEOUT_S: Final = 5.0
_DEATH_S: Final = 2.0
"""How long a server that broke a connection may take to be gone altogether."""
_LOOK_AGAIN_S: Final = 0.1
_GATEWAY: Final = frozenset({502, 503, 504})
"""What a proxy answers when there is nobody behind it."""
_LONGEST_SHOWN: Final = 400
_LONGEST_EVENT: Final = 8 << 20
"""Bytes of one event of a stream: all the text so far, perhaps with its log probabilities."""


@dataclass(frozen=True, kw_only=True)
class Reply:
    """A complete reply. `path` is what was asked for, without the server's URL."""

    method: str
    path: str
    status: int
    text: str

    @property
    def is_ok(self) -> bool:
        """Whether the status is 200."""
        return self.status == 200

    def json(self) -> Any:
        """The body; `CheckFailed` when it is no JSON."""
        try:
            return json.loads(self.text)
        except (ValueError, RecursionError) as error:
            raise CheckFailed(
                f"{self.method} {self.path} answered {self.status} with a body that is no JSON: "
                f"{_cut(self.text)}"
            ) from error

    def json_object(self) -> dict[str, Any]:
        """The body; `CheckFailed` when it is no JSON object."""
        body = self.json()
        if not isinstance(body, dict):
            raise CheckFailed(
                f"{self.method} {self.path} answered with a {type(body).__name__} where an object "
                f"belongs: {_cut(self.text)}"
            )
        return body


class HttpSession:
    """Connections to one server, inside `async with`."""

    def __init__(self, target: Target) -> None:
        self.target = target
        self._has_answered = False
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(
            headers=self.target.all_headers,
            connector=aiohttp.TCPConnector(limit=0),
            read_bufsize=_LONGEST_EVENT // 2,  # a line may be twice that
        )
        return self

    async def __aexit__(self, *exc: object) -> None:
        assert self._session is not None, "entered before"
        await self._session.close()

    async def get(self, path: str, *, timeout_s: float | None = None) -> Reply:
        """GET; the reply whatever its status."""
        return await self._call("GET", path, None, timeout_s)

    async def post(
        self, path: str, body: Mapping[str, Any], *, timeout_s: float | None = None
    ) -> Reply:
        """POST a JSON body; the reply whatever its status."""
        return await self._call("POST", path, body, timeout_s)

    async def get_ok(self, path: str, *, timeout_s: float | None = None) -> Reply:
        """GET; `RequestRefused` for any status but 200."""
        return accepted(await self.get(path, timeout_s=timeout_s))

    async def post_ok(
        self, path: str, body: Mapping[str, Any], *, timeout_s: float | None = None
    ) -> Reply:
        """POST; `RequestRefused` for any status but 200."""
        return accepted(await self.post(path, body, timeout_s=timeout_s))

    async def events(
        self, path: str, body: Mapping[str, Any], *, timeout_s: float | None = None
    ) -> AsyncIterator[dict[str, Any]]:
        """The events of a stream up to `[DONE]`.

        Raises `CheckFailed` when it ends without that, or has an event that is no JSON object.
        """
        whole = self.target.timeout_s if timeout_s is None else timeout_s
        async with self._request("POST", path, body, whole) as response:
            if response.status != 200:
                text = await response.text()
                accepted(Reply(method="POST", path=path, status=response.status, text=text))
            count = 0
            while line := await _line(response, path=path, number=count):
                data = line.decode("utf-8", "replace").strip()
                if not data.startswith("data:"):
                    continue
                data = data.removeprefix("data:").strip()
                if data == "[DONE]":
                    return
                yield _event(data, path=path, number=count)
                count += 1
        raise CheckFailed(f"the stream of POST {path} ended after {count} events without [DONE]")

    async def _call(
        self, method: str, path: str, body: Mapping[str, Any] | None, timeout_s: float | None
    ) -> Reply:
        whole = self.target.timeout_s if timeout_s is None else timeout_s
        async with self._request(method, path, body, whole) as response:
            text = await response.text(errors="replace")
        reply = Reply(method=method, path=path, status=response.status, text=text)
        if reply.status in _GATEWAY:
            why = await self._why_dead()
            if why is not None and path != "/health":
                raise self._died(method, path, f"status {reply.status}: {_cut(text)}", why)
        return reply

    @contextlib.asynccontextmanager
    async def _request(
        self, method: str, path: str, body: Mapping[str, Any] | None, timeout_s: float
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        assert self._session is not None, "use it in `async with`"
        timeout = aiohttp.ClientTimeout(total=timeout_s)
        try:
            async with self._session.request(
                method, self.target.url + path, json=body, timeout=timeout
            ) as response:
                self._has_answered = True
                yield response
        except TimeoutError as error:
            raise RequestTimedOut(
                f"{method} {self.target.url}{path} was not answered within {timeout_s:g} s",
                hint="a longer timeout, if the server is only slow (--timeout SECONDS)",
            ) from error
        except (aiohttp.ClientError, OSError) as error:
            raise await self._broken(method, path, error) from error

    async def _broken(self, method: str, path: str, error: Exception) -> ScriptedError:
        seen = f"{type(error).__name__}: {error}".rstrip(": ")
        if not self._has_answered:
            return ServerUnreachable(
                f"nothing answers at {self.target.url}: {seen}",
                hint="is the server up, and is this its URL? `scripted serve` starts one",
            )
        loop = asyncio.get_running_loop()
        deadline = loop.time() + _DEATH_S
        while loop.time() < deadline:
            why = await self._why_dead()
            if why is not None:
                return self._died(method, path, seen, why)
            # Its front may answer for a moment after its engine has gone; nothing tells us when.
            await asyncio.sleep(_LOOK_AGAIN_S)
        return ConnectionBroken(
            f"the server broke the connection of {method} {path}: {seen}; /health still answers",
            hint="see the server's log",
        )

    async def _why_dead(self) -> str | None:
        """What came instead of an answer to `/health`; `None` when the server lives."""
        assert self._session is not None, "use it in `async with`"
        timeout = aiohttp.ClientTimeout(total=_HEALTH_TIMEOUT_S)
        try:
            async with self._session.get(self.target.url + "/health", timeout=timeout) as response:
                await response.read()
                status = response.status
        except TimeoutError:
            return f"no answer within {_HEALTH_TIMEOUT_S:g} s"
        except (aiohttp.ClientError, OSError) as error:
            return f"{type(error).__name__}: {error}"
        return f"status {status}" if status in _GATEWAY else None

    def _died(self, method: str, path: str, seen: str, why: str) -> EngineDied:
        return EngineDied(
            f"the server at {self.target.url} died: {method} {path} broke off ({seen}), "
            f"and /health has no answer any more ({why})",
            hint="the server's log says why; nothing can be told of what was not run yet",
        )


def accepted(reply: Reply) -> Reply:
    """The reply; `RequestRefused` when its status is not 200."""
    if reply.is_ok:
        return reply
    hint = None
    if reply.status in (401, 403):
        hint = "give the server's key: --api-key KEY, or $SCRIPTED_KIT_API_KEY"
    elif reply.status == 404:
        hint = "does the server have this route, and is the path of its URL right?"
    raise RequestRefused(
        f"{reply.method} {reply.path} was answered with status {reply.status}: {_cut(reply.text)}",
        status=reply.status,
        hint=hint,
    )


async def _line(response: aiohttp.ClientResponse, *, path: str, number: int) -> bytes:
    """The next line with its end; empty at the end of the body."""
    try:
        return await response.content.readline()
    except (ValueError, LineTooLong) as error:  # which of them is aiohttp's choice of release
        raise CheckFailed(
            f"event {number} of the stream of POST {path} is longer than {_LONGEST_EVENT >> 20} MiB"
        ) from error


def _event(data: str, *, path: str, number: int) -> dict[str, Any]:
    try:
        event = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise CheckFailed(
            f"event {number} of the stream of POST {path} is no JSON: {_cut(data)}"
        ) from error
    if not isinstance(event, dict):
        raise CheckFailed(f"event {number} of the stream of POST {path} is {_cut(data)}")
    refusal = event.get("error")
    if refusal is not None:
        raise RequestRefused(f"POST {path} was refused in its stream: {_cut(json.dumps(refusal))}")
    return event


def _cut(text: str) -> str:
    flat = " ".join(text.split())
    return flat if len(flat) <= _LONGEST_SHOWN else flat[:_LONGEST_SHOWN] + "…"
