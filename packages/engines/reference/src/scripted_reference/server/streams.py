"""Server-sent events, and what happens when whoever reads them goes away."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from typing import Any

import msgspec
from aiohttp import web

from scripted_reference.server.context import FrontContext
from scripted_reference.server.generation import Generation
from scripted_reference.server.http_errors import RequestError, error_body


@contextlib.asynccontextmanager
async def started(planned: Sequence[Generation], context: FrontContext) -> AsyncIterator[None]:
    """Start the requests in order; whatever ends the block aborts those that have not ended."""
    try:
        for generation in planned:
            await context.client.start(generation)
        yield
    finally:
        for generation in planned:
            await asyncio.shield(context.client.abandon(generation))
            context.observe_end(generation)


async def changes(planned: Sequence[Generation]) -> AsyncGenerator[tuple[int, Generation]]:
    """Each request, with its place, whenever there is something new of it, until all have ended."""
    waiting = {
        asyncio.ensure_future(generation.advance()): (i, generation)
        for i, generation in enumerate(planned)
    }
    try:
        while waiting:
            done, _ = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            for task in sorted(done, key=lambda task: waiting[task][0]):
                i, generation = waiting.pop(task)
                task.result()
                yield i, generation
                if generation.finish is None:
                    waiting[asyncio.ensure_future(generation.advance())] = (i, generation)
    finally:
        for task in waiting:
            task.cancel()


async def event_stream(
    request: web.Request, events: AsyncGenerator[dict[str, Any]]
) -> web.StreamResponse:
    """Send events as `data: {...}` lines and `data: [DONE]` at the end.

    Once the stream has begun, an error is an event in it.
    """
    response = web.StreamResponse(
        headers={"Content-Type": "text/event-stream; charset=utf-8", "Cache-Control": "no-cache"}
    )
    await response.prepare(request)
    try:
        async with contextlib.aclosing(events) as source:
            async for event in source:
                await response.write(b"data: " + msgspec.json.encode(event) + b"\n\n")
    except RequestError as error:
        body = msgspec.json.encode(error_body(str(error), error.status))
        await response.write(b"data: " + body + b"\n\n")
    await response.write(b"data: [DONE]\n\n")
    await response.write_eof()
    return response
