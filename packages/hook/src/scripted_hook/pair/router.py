"""A router in front of a prefill and a decode server: ``python -m scripted_hook.pair.router``.

It speaks the protocol of SGLang's routers: each request goes to both servers, with the same fields
``bootstrap_host``, ``bootstrap_port`` and ``bootstrap_room`` added (lists of them for several prompts),
by which the servers find each other; the decode server's answer is the answer. A request that the
prefill server refuses has ended with that refusal, and a client that goes away ends it in both.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import secrets
import signal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Final, TypeVar
from urllib.parse import urlsplit

import aiohttp
import msgspec
from aiohttp import web
from scripted_core.wire.address import address_from_env

_LARGEST_BODY_BYTES: Final = 64 * 1024 * 1024
_LARGEST_PORT: Final = 65_535
_ROOM_BITS: Final = 63
_GENERATING: Final = ("/generate", "/v1/completions", "/v1/chat/completions")
_CONTROLLING: Final = (
    "/abort_request",
    "/continue_generation",
    "/flush_cache",
    "/pause_generation",
)
_OF_DECODE: Final = ("/get_model_info", "/model_info", "/v1/models")
_JSON_TYPE: Final = "application/json"
_T = TypeVar("_T")
_HEALTH_TIMEOUT: Final = aiohttp.ClientTimeout(total=5.0)


@dataclass(frozen=True, kw_only=True)
class Workers:
    """The two servers: URLs, and the port on which the prefill server meets decode servers."""

    prefill: str
    decode: str
    bootstrap_port: int

    @property
    def bootstrap_host(self) -> str:
        """Where that port is."""
        host = urlsplit(self.prefill).hostname
        assert host is not None, "a URL of a server has a host"
        return host


@dataclass(frozen=True)
class Answer:
    """What a server has answered, all of it."""

    status: int
    body: bytes
    content_type: str

    def response(self) -> web.Response:
        """The same to the client."""
        return web.Response(
            body=self.body, status=self.status, headers={"Content-Type": self.content_type}
        )


class Router:
    """The routes, and the client with which the servers are asked."""

    def __init__(self, workers: Workers) -> None:
        self._workers = workers
        self._session: aiohttp.ClientSession | None = None

    def application(self) -> web.Application:
        """All routes."""
        app = web.Application(client_max_size=_LARGEST_BODY_BYTES)
        app.add_routes(
            [
                *(web.post(path, self.generate) for path in _GENERATING),
                *(web.post(path, self.control) for path in _CONTROLLING),
                *(web.get(path, self.ask_decode) for path in _OF_DECODE),
                web.get("/health", self.health),
                web.get("/health_generate", self.health_generate),
                web.get("/workers", self.workers),
                web.get("/list_workers", self.list_workers),
                web.get("/server_info", self.server_info),
                web.get("/get_server_info", self.server_info),
            ]
        )
        app.cleanup_ctx.append(self._with_session)
        return app

    async def _with_session(self, app: web.Application) -> Any:
        connector = aiohttp.TCPConnector(limit=0)
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=5.0)
        async with aiohttp.ClientSession(connector=connector, timeout=timeout) as session:
            self._session = session
            yield

    @property
    def _http(self) -> aiohttp.ClientSession:
        assert self._session is not None, "the application has begun"
        return self._session

    # -- generating ----------------------------------------------------------------------------

    async def generate(self, request: web.Request) -> web.StreamResponse:
        """Send a request to both servers and hand on what the decode server answers."""
        try:
            body = msgspec.json.decode(await request.read(), type=dict[str, Any])
        except msgspec.DecodeError as error:
            return _refusal(f"the body is no JSON object: {error}", HTTPStatus.BAD_REQUEST)
        body |= self._meeting(body)
        prefill, decode = (url + request.path for url in self._urls)
        ahead = asyncio.create_task(self._ask("POST", prefill, {**body, "stream": False}))
        behind = asyncio.ensure_future(self._http.post(decode, json=body).__aenter__())
        refused = asyncio.create_task(_until_refused(ahead))
        try:
            return await _relay(request, behind, refused)
        except aiohttp.ClientError as error:
            return _unreachable(decode, error).response()
        finally:
            for task in (refused, ahead, behind):
                task.cancel()
            if behind.done() and not behind.cancelled() and behind.exception() is None:
                behind.result().close()  # what has not ended by now, the decode server aborts

    def _meeting(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """Where and in which room the servers meet for each prompt of a request."""
        workers = self._workers
        prompts = _number_of_prompts(body)
        if prompts is None:
            return {
                "bootstrap_host": workers.bootstrap_host,
                "bootstrap_port": workers.bootstrap_port,
                "bootstrap_room": secrets.randbits(_ROOM_BITS),
            }
        return {
            "bootstrap_host": [workers.bootstrap_host] * prompts,
            "bootstrap_port": [workers.bootstrap_port] * prompts,
            "bootstrap_room": [secrets.randbits(_ROOM_BITS) for _ in range(prompts)],
        }

    # -- everything else -----------------------------------------------------------------------

    async def control(self, request: web.Request) -> web.Response:
        """Tell both servers; what is answered is the first refusal, or what the decode server says."""
        body = await request.read()
        answers = await asyncio.gather(
            *(self._ask("POST", url + request.path_qs, body) for url in self._urls)
        )
        refusals = [answer for answer in answers if answer.status != HTTPStatus.OK]
        return (refusals or answers)[-1].response()

    async def ask_decode(self, request: web.Request) -> web.Response:
        """What both servers have in common, the decode server is asked for."""
        return (await self._ask("GET", self._workers.decode + request.path)).response()

    async def health(self, request: web.Request) -> web.Response:
        """200 when both servers take requests."""
        answers = await self._both("/health", timeout=_HEALTH_TIMEOUT)
        return web.Response(status=_worst(answers))

    async def health_generate(self, request: web.Request) -> web.Response:
        """200 when a token can be generated by both servers together."""
        body = {"input_ids": [0], "sampling_params": {"max_new_tokens": 1, "temperature": 0.0}}
        body |= self._meeting(body)
        answers = await asyncio.gather(
            *(self._ask("POST", f"{url}/generate", body) for url in self._urls)
        )
        return web.Response(status=_worst(answers))

    async def workers(self, request: web.Request) -> web.Response:
        """The servers and how they are."""
        answers = await self._both("/health", timeout=_HEALTH_TIMEOUT)
        ports = (self._workers.bootstrap_port, None)
        found = [
            {
                "id": kind,
                "url": url,
                "worker_type": kind,
                "is_healthy": answer.status == HTTPStatus.OK,
                "bootstrap_port": port,
            }
            for kind, url, answer, port in zip(
                ("prefill", "decode"), self._urls, answers, ports, strict=True
            )
        ]
        stats = {"prefill_count": 1, "decode_count": 1, "regular_count": 0}
        return _json({"workers": found, "total": len(found), "stats": stats})

    async def list_workers(self, request: web.Request) -> web.Response:
        """Their URLs."""
        return _json({"urls": list(self._urls)})

    async def server_info(self, request: web.Request) -> web.Response:
        """What each of them says of itself."""
        prefill, decode = await self._both(request.path)
        for answer in (prefill, decode):
            if answer.status != HTTPStatus.OK:
                return answer.response()
        return _json({"prefill": [msgspec.Raw(prefill.body)], "decode": [msgspec.Raw(decode.body)]})

    @property
    def _urls(self) -> tuple[str, str]:
        return self._workers.prefill, self._workers.decode

    async def _both(self, path: str, **options: Any) -> list[Answer]:
        return await asyncio.gather(
            *(self._ask("GET", url + path, **options) for url in self._urls)
        )

    async def _ask(
        self, method: str, url: str, body: dict[str, Any] | bytes | None = None, **options: Any
    ) -> Answer:
        """One answer; that of a server that cannot be reached is a 503."""
        data = msgspec.json.encode(body) if isinstance(body, dict) else body
        headers = {"Content-Type": _JSON_TYPE} if data else None
        try:
            async with self._http.request(
                method, url, data=data, headers=headers, **options
            ) as reply:
                kind = reply.headers.get("Content-Type", _JSON_TYPE)
                return Answer(reply.status, await reply.read(), kind)
        except (aiohttp.ClientError, TimeoutError) as error:
            return _unreachable(url, error)


async def _relay(
    request: web.Request,
    behind: asyncio.Future[aiohttp.ClientResponse],
    refused: asyncio.Task[Answer],
) -> web.StreamResponse:
    """Hand on an answer as it comes, until the prefill server refuses the request."""
    reply = await _first(behind, refused)
    if isinstance(reply, Answer):
        return reply.response()
    response = web.StreamResponse(
        status=reply.status,
        headers={"Content-Type": reply.headers.get("Content-Type", _JSON_TYPE)},
    )
    while True:
        got = await _first(asyncio.ensure_future(reply.content.readany()), refused)
        if isinstance(got, Answer):
            # The head is only sent with the first bytes: an answer of its own is mostly possible.
            if not response.prepared:
                return got.response()
            await response.write(b"data: " + got.body + b"\n\ndata: [DONE]\n\n")
            break
        if not response.prepared:
            await response.prepare(request)
        if not got:
            break
        await response.write(got)
    await response.write_eof()
    return response


async def _first(wanted: asyncio.Future[_T], refused: asyncio.Task[Answer]) -> _T | Answer:
    """What is wanted, unless the refusal comes before it."""
    either: list[asyncio.Future[Any]] = [wanted, refused]
    try:
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        return wanted.result() if wanted.done() else refused.result()
    finally:
        if not wanted.done():
            wanted.cancel()


async def _until_refused(ahead: asyncio.Task[Answer]) -> Answer:
    """The prefill server's answer if it is a refusal; never ends otherwise."""
    answer = await ahead
    if answer.status == HTTPStatus.OK:
        await asyncio.Event().wait()
    return answer


def _number_of_prompts(body: Mapping[str, Any]) -> int | None:
    """How many prompts a body has as a list; ``None`` of one that is none."""
    for name in ("text", "prompt"):
        if isinstance(body.get(name), list) and not _is_tokens(body[name]):
            return len(body[name])
    ids = body.get("input_ids")
    return len(ids) if isinstance(ids, list) and not _is_tokens(ids) else None


def _is_tokens(prompt: list[Any]) -> bool:
    return not prompt or isinstance(prompt[0], int)


def _worst(answers: Sequence[Answer]) -> int:
    return max(answer.status for answer in answers)


def _json(body: object) -> web.Response:
    return web.Response(body=msgspec.json.encode(body), content_type=_JSON_TYPE)


def _refusal(message: str, status: HTTPStatus) -> web.Response:
    return _error(message, status).response()


def _unreachable(url: str, error: Exception) -> Answer:
    return _error(f"{url}: {type(error).__name__}: {error}", HTTPStatus.SERVICE_UNAVAILABLE)


def _error(message: str, status: HTTPStatus) -> Answer:
    body = {"error": {"message": message, "type": "router_error", "code": int(status)}}
    return Answer(int(status), msgspec.json.encode(body), _JSON_TYPE)


async def serve(workers: Workers, *, host: str, port: int) -> None:
    """Serve until told to end."""
    told = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(number, told.set)
    runner = web.AppRunner(
        Router(workers).application(),
        handle_signals=False,
        # A client that goes away ends its handler, which aborts its request in both servers.
        handler_cancellation=True,
        access_log=None,
        shutdown_timeout=0.5,
    )
    await runner.setup()
    try:
        await web.TCPSite(runner, host, port, backlog=1024).start()
        print(
            f"routing to {workers.prefill} and {workers.decode} on {host} port {port}", flush=True
        )
        await told.wait()
    finally:
        await runner.cleanup()


def _port(text: str) -> int:
    """A TCP port that somebody can be told of, so not 0."""
    try:
        port = int(text)
    except ValueError:
        port = 0
    if not 1 <= port <= _LARGEST_PORT:
        raise argparse.ArgumentTypeError(f"{text!r} is no port: give 1 to {_LARGEST_PORT}")
    return port


def _server_url(text: str) -> str:
    """The URL of a server, without a slash at its end."""
    try:
        where = urlsplit(text)
        good = where.scheme in ("http", "https") and where.hostname and where.port != 0
    except ValueError:  # a port out of range, an IPv6 address without its end
        good = False
    if not good or where.query or where.fragment or not text.isprintable() or " " in text:
        raise argparse.ArgumentTypeError(
            f"{text!r} is no URL of a server: give one like http://127.0.0.1:30001"
        )
    return text.rstrip("/")


def main() -> None:
    """Exit status 0 when it was told to end, 1 when it cannot have its port, 2 for wrong options."""
    parser = argparse.ArgumentParser(
        prog="python -m scripted_hook.pair.router",
        description="A router in front of a prefill and a decode server.",
        allow_abbrev=False,
    )
    parser.add_argument("--host", default="127.0.0.1", help="default: %(default)s")
    parser.add_argument("--port", type=_port, default=30000, help="default: %(default)s")
    parser.add_argument("--prefill", type=_server_url, required=True, metavar="URL")
    parser.add_argument("--bootstrap-port", type=_port, default=8998, help="default: %(default)s")
    parser.add_argument("--decode", type=_server_url, required=True, metavar="URL")
    options = parser.parse_args()
    address = address_from_env(os.environ)
    if address is not None:
        address.announce("router")
    workers = Workers(
        prefill=options.prefill,
        decode=options.decode,
        bootstrap_port=options.bootstrap_port,
    )
    try:
        asyncio.run(serve(workers, host=options.host, port=options.port))
    except OSError as error:
        raise SystemExit(f"the router cannot serve on port {options.port}: {error}") from None


if __name__ == "__main__":
    main()
