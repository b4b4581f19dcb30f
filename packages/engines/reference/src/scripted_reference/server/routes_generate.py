"""`POST /generate`, and the health check that generates a token."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from http import HTTPStatus
from typing import Any

from aiohttp import web

from scripted_reference.server.bodies import GenerateBody, read_generate_body
from scripted_reference.server.context import FrontContext
from scripted_reference.server.generation import Generation
from scripted_reference.server.http_errors import RequestError, json_response
from scripted_reference.server.plans import new_rid, plan_generate
from scripted_reference.server.replies import generation_json
from scripted_reference.server.streams import changes, event_stream, started
from scripted_reference.server.wire import Generate

HEALTH_TIMEOUT_S = 20.0


class GenerateRoutes:
    """Requests of SGLang's own API."""

    def __init__(self, context: FrontContext) -> None:
        self._context = context

    def routes(self) -> list[web.RouteDef]:
        """Paths and handlers."""
        return [
            web.post("/generate", self.generate),
            web.put("/generate", self.generate),
            web.get("/health_generate", self.health_generate),
        ]

    async def generate(self, request: web.Request) -> web.StreamResponse:
        """Generate for one prompt or several; in order of arrival, and of the list."""
        body = await read_generate_body(request)
        planned, is_batch = plan_generate(body, self._context)
        async with started(planned, self._context):
            if body.stream:
                events = self.events(planned, body, is_batch=is_batch)
                return await event_stream(request, events)
            await asyncio.gather(*(generation.complete() for generation in planned))
            replies = self.replies(planned, body)
            return json_response(replies if is_batch else replies[0])

    async def health_generate(self, request: web.Request) -> web.Response:
        """Whether the scheduler generates a token within 20 s; a script that holds it delays that."""
        spec = Generate(rid=f"HEALTH_CHECK_{new_rid()}", input_ids=[0], max_new_tokens=1)
        generation = Generation(spec, tokenizer=self._context.tokenizer)
        async with started([generation], self._context):
            try:
                async with asyncio.timeout(HEALTH_TIMEOUT_S):
                    await generation.complete()
            except TimeoutError:
                raise RequestError(
                    f"the scheduler has not generated a token within {HEALTH_TIMEOUT_S:g} s",
                    status=HTTPStatus.SERVICE_UNAVAILABLE,
                ) from None
        return web.Response()

    def replies(self, planned: Sequence[Generation], body: GenerateBody) -> list[dict[str, Any]]:
        """What is answered once all have ended, in the order of the prompts."""
        return [self._reply(generation, body) for generation in planned]

    async def events(
        self, planned: Sequence[Generation], body: GenerateBody, *, is_batch: bool
    ) -> AsyncGenerator[dict[str, Any]]:
        """All text so far of a request, whenever there is more of it."""
        async for i, generation in changes(planned):
            event = self._reply(generation, body)
            if is_batch:
                event["index"] = i
            yield event

    def _reply(self, generation: Generation, body: GenerateBody) -> dict[str, Any]:
        return generation_json(
            generation,
            tokenizer=self._context.tokenizer,
            with_text_in_logprobs=body.return_text_in_logprobs,
        )
