"""A small HTTP server in a thread, whose routes a test chooses; and a proxy in front of a real one."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Awaitable, Callable, Iterator, Mapping

import aiohttp
from aiohttp import web

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@contextlib.contextmanager
def served(routes: Mapping[str, Handler]) -> Iterator[str]:
    """Serve `METHOD /path` handlers on a free port; the URL of it."""
    loop = asyncio.new_event_loop()
    ready: list[str] = []
    begun = threading.Event()
    ended = asyncio.Event()

    async def serve() -> None:
        app = web.Application()
        for route, handler in routes.items():
            method, _, path = route.partition(" ")
            app.router.add_route(method, path, handler)
        runner = web.AppRunner(app, shutdown_timeout=0.1, handler_cancellation=True)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        host, port = runner.addresses[0][:2]
        ready.append(f"http://{host}:{port}")
        begun.set()
        await ended.wait()
        await runner.cleanup()

    thread = threading.Thread(target=loop.run_until_complete, args=(serve(),), daemon=True)
    thread.start()
    assert begun.wait(10)
    try:
        yield ready[0]
    finally:
        loop.call_soon_threadsafe(ended.set)
        thread.join(10)
        loop.close()


def replies(status: int, body: object) -> Handler:
    """A handler that always says the same, as JSON or as text."""

    async def handle(request: web.Request) -> web.StreamResponse:
        if isinstance(body, str):
            return web.Response(status=status, text=body)
        return web.json_response(body, status=status)

    return handle


@contextlib.contextmanager
def proxied(url: str, *, prefix: str, key: str) -> Iterator[str]:
    """Everything below `prefix` goes to `url`, for those who have the key; the URL to use."""
    seen: set[str] = set()

    async def forward(request: web.Request) -> web.StreamResponse:
        if request.headers.get("Authorization") != f"Bearer {key}":
            return web.json_response({"error": "no such key"}, status=401)
        seen.add(request.path)
        path = request.path.removeprefix(prefix)
        async with aiohttp.ClientSession() as session:
            data = await request.read()
            try:
                async with session.request(request.method, url + path, data=data) as answer:
                    kind = {"Content-Type": answer.headers.get("Content-Type", "text/plain")}
                    response = web.StreamResponse(status=answer.status, headers=kind)
                    await response.prepare(request)
                    async for chunk in answer.content.iter_any():
                        await response.write(chunk)
                    await response.write_eof()
                    return response
            except aiohttp.ClientConnectorError:
                return web.Response(status=502, text="nobody behind the proxy")

    with served({f"* {prefix}/{{path:.*}}": forward}) as proxy:
        yield proxy + prefix
    assert seen, "nothing went through the proxy"
