"""OpenAI's `POST /v1/completions`."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Sequence
from typing import Any

from aiohttp import web

from scripted_reference.models.base import TokenLogprobs
from scripted_reference.models.tokenizer import Tokenizer
from scripted_reference.server.bodies import read_body
from scripted_reference.server.context import FrontContext
from scripted_reference.server.detokenizer import INCOMPLETE
from scripted_reference.server.generation import Generation
from scripted_reference.server.http_errors import json_response
from scripted_reference.server.openai_bodies import CompletionsBody, plan_completions
from scripted_reference.server.streams import changes, event_stream, started


class OpenAiRoutes:
    """Completions, at once or as a stream of what is new."""

    def __init__(self, context: FrontContext) -> None:
        self._context = context

    def routes(self) -> list[web.RouteDef]:
        """Paths and handlers."""
        return [web.post("/v1/completions", self.completions)]

    async def completions(self, request: web.Request) -> web.StreamResponse:
        """Complete one prompt or several, one choice for each."""
        body = await read_body(request, CompletionsBody)
        planned = plan_completions(body, self._context)
        head = {
            "id": planned[0].rid,
            "object": "text_completion",
            "created": int(time.time()),
            "model": body.model or self._context.model_name,
        }
        async with started(planned, self._context):
            if body.stream:
                return await event_stream(request, self.events(planned, body, head))
            await asyncio.gather(*(generation.complete() for generation in planned))
            choices = self.choices(planned, body)
            return json_response({**head, "choices": choices, "usage": usage_json(planned)})

    def choices(self, planned: Sequence[Generation], body: CompletionsBody) -> list[dict[str, Any]]:
        """What is answered once all have ended, in the order of the prompts."""
        return [
            CompletionPart(generation, body, self._context.tokenizer).choice(i)
            for i, generation in enumerate(planned)
        ]

    async def events(
        self, planned: Sequence[Generation], body: CompletionsBody, head: dict[str, Any]
    ) -> AsyncGenerator[dict[str, Any]]:
        """What is new of a request, whenever there is something, and what was used at the end."""
        parts = [CompletionPart(one, body, self._context.tokenizer) for one in planned]
        usage = {"usage": None} if body.includes_usage else {}
        async for i, _ in changes(planned):
            yield {**head, "choices": [parts[i].choice(i)], **usage}
        if body.includes_usage:
            yield {**head, "choices": [], "usage": usage_json(planned)}


class CompletionPart:
    """What has been sent of a generation; each `choice` holds what is new since the last."""

    def __init__(self, generation: Generation, body: CompletionsBody, tokenizer: Tokenizer) -> None:
        self._generation = generation
        self._echo = body.echo
        self._prompt = tokenizer.decode(generation.spec.input_ids) if body.echo else ""
        self._with_logprobs = body.logprobs is not None
        self._tokenizer = tokenizer
        self._sent_characters = 0
        self._sent_positions = 0

    def choice(self, index: int) -> dict[str, Any]:
        """The new text, its log probabilities, and the end when it came."""
        generation = self._generation
        text = self._prompt + generation.text
        if generation.finish is None:
            text = text.rstrip(INCOMPLETE)
        new = text[self._sent_characters :]
        logprobs = self._logprobs() if self._with_logprobs else None
        self._sent_characters = max(self._sent_characters, len(text))
        finish = generation.finish
        return {
            "index": index,
            "text": new,
            "logprobs": logprobs,
            "finish_reason": None if finish is None else finish.kind,
            "matched_stop": None
            if finish is None
            else generation.stop_string or finish.matched_token,
        }

    def _logprobs(self) -> dict[str, Any]:
        """OpenAI's four lists, for the positions that have not been sent."""
        generation = self._generation
        positions = [
            *(generation.input_logprobs if self._echo else ()),
            *generation.output_logprobs,
        ]
        new = positions[self._sent_positions :]
        self._sent_positions = len(positions)
        tokens = [self._tokenizer.decode([at.token_id]) for at in new]
        offsets, offset = [], self._sent_characters
        for token in tokens:
            offsets.append(offset)
            offset += len(token)
        return {
            "tokens": tokens,
            "token_logprobs": [at.logprob for at in new],
            "top_logprobs": [self._top(at) for at in new],
            "text_offset": offsets,
        }

    def _top(self, at: TokenLogprobs) -> dict[str, float] | None:
        return {self._tokenizer.decode([token]): logprob for token, logprob in at.top} or None


def usage_json(generations: Sequence[Generation]) -> dict[str, Any]:
    """Tokens of all prompts and completions together."""
    prompt = sum(len(generation.spec.input_ids) for generation in generations)
    completion = sum(len(generation.output_ids) for generation in generations)
    cached = sum(generation.cached_tokens for generation in generations)
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "prompt_tokens_details": {"cached_tokens": cached},
    }
