"""Scheduler stress: streams, many at a time with one prefix, a long prompt, a pause."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Final

from scripted_core.errors import CapabilityMissing
from scripted_kit_client.client import Prompt, ServerClient
from scripted_kit_client.errors import CheckFailed, RequestRefused
from scripted_kit_client.kit import Probe
from scripted_kit_client.replies import StreamEvent
from scripted_kit_client.together import together

from scripted_kit_sanity.options import SanityOptions
from scripted_kit_sanity.prompts import different_words, room_tokens

_STREAM_TOKENS: Final = 32
_PREFIX_WORDS: Final = 40
_LONG_OUTPUT_TOKENS: Final = 4
_TOKENS_A_WORD: Final = 5
"""More than any tokenizer needs for a word or a number of these prompts."""
_LONG_TOKENS: Final = 256


async def streaming(client: ServerClient, options: SanityOptions) -> str:
    """A stream grows, ends with a reason, and says what the same request says without a stream."""
    prompt = different_words(count=12, seed=11)
    whole = await client.generate(prompt, max_new_tokens=_STREAM_TOKENS)
    events = [event async for event in client.stream(prompt, max_new_tokens=_STREAM_TOKENS)]
    return _judge_stream(events, whole.text, "the stream")


async def streaming_completions(client: ServerClient, options: SanityOptions) -> str:
    """The same over `/v1/completions`, whose events hold the new text alone: one that is lost shows."""
    prompt = different_words(count=12, seed=12)
    whole = await client.generate(prompt, max_new_tokens=_STREAM_TOKENS)
    stream: AsyncIterator[StreamEvent] = client.stream_completions(
        prompt, max_new_tokens=_STREAM_TOKENS
    )
    events = [event async for event in stream]
    return _judge_stream(events, whole.text, "the stream of /v1/completions")


async def shared_prefix(client: ServerClient, options: SanityOptions) -> str:
    """Requests that share a prefix and arrive at once say what each says alone."""
    prefix = different_words(count=_PREFIX_WORDS, seed=13)
    prompts = [
        f"{prefix} {different_words(count=6, seed=100 + i)}" for i in range(options.concurrency)
    ]
    tokens = options.max_new_tokens // 2
    at_once = await together(client.generate(one, max_new_tokens=tokens) for one in prompts)
    alone = [await client.generate(one, max_new_tokens=tokens) for one in prompts]
    differ = [
        f"request {i} said {many.text!r:.80} among {len(prompts)} and {one.text!r:.80} alone"
        for i, (many, one) in enumerate(zip(at_once, alone, strict=True))
        if many.text != one.text
    ]
    # Kernels of a GPU may choose another token of two equally likely ones in another batch.
    allowed = 0 if _is_exact(client) else len(prompts) // 4
    if len(differ) > allowed:
        raise CheckFailed(f"{len(differ)} of {len(prompts)} outputs differ: {differ[0]}")
    return f"{len(prompts) - len(differ)} of {len(prompts)} outputs are the same alone"


async def long_prompt(client: ServerClient, options: SanityOptions) -> str:
    """A prompt of many chunks is computed, and its length is told."""
    words = options.long_prompt_words
    room = room_tokens(client.facts.arguments)
    if room is not None:
        words = min(words, (room - _LONG_OUTPUT_TOKENS) // _TOKENS_A_WORD)
    found = await client.generate(
        different_words(count=words, seed=14), max_new_tokens=_LONG_OUTPUT_TOKENS, ignore_eos=True
    )
    if found.completion_tokens != _LONG_OUTPUT_TOKENS:
        raise CheckFailed(
            f"a prompt of {found.prompt_tokens} tokens got {found.completion_tokens} of "
            f"{_LONG_OUTPUT_TOKENS} tokens ({found.finish_reason})"
        )
    if found.prompt_tokens < words // 2:
        raise CheckFailed(f"a prompt of {words} words counts as {found.prompt_tokens} tokens")
    return f"{found.prompt_tokens} tokens of prompt"


async def pause_in_place(client: ServerClient, options: SanityOptions) -> str:
    """A pause in place holds running requests where they are; a continue lets all of them end."""
    room = room_tokens(client.facts.arguments)
    tokens = _LONG_TOKENS if room is None else min(_LONG_TOKENS, room // options.pause_requests)
    streams = [
        asyncio.create_task(_run_through(client, different_words(count=8, seed=200 + i), tokens))
        for i in range(options.pause_requests)
    ]
    try:
        await _begun(client, streams)
        async with _paused(client):
            _, running = await asyncio.wait(streams, timeout=0)
            if not running:
                raise CapabilityMissing("every request ended before the pause was in force")
            ended = (await asyncio.wait(running, timeout=options.pause_s))[0]
        if ended:
            raise CheckFailed(
                f"{len(ended)} of {len(running)} paused requests ended within "
                f"{options.pause_s:g} s of a pause in place"
            )
        counts = await asyncio.gather(*streams)
    finally:
        for stream in streams:
            stream.cancel()
    short = [count for count in counts if count != tokens]
    if short:
        raise CheckFailed(f"after a continue, requests ended at {short} of {tokens} tokens")
    return f"{len(running)} requests held {options.pause_s:g} s, and all ended"


STRESS: Final = (
    Probe(name="streaming", look=streaming),
    Probe(name="streaming_completions", look=streaming_completions),
    Probe(name="shared_prefix", look=shared_prefix),
    Probe(name="long_prompt", look=long_prompt),
    Probe(name="pause_in_place", look=pause_in_place),
)


def _is_exact(client: ServerClient) -> bool:
    return client.facts.engine == "scripted-reference"


def _judge_stream(events: list[StreamEvent], whole: str, what: str) -> str:
    if not events:
        raise CheckFailed(f"{what} has no event")
    text = ""
    for i, event in enumerate(events):
        if not event.text.startswith(text):
            raise CheckFailed(
                f"event {i} of {what} takes text back: {text!r:.80}, {event.text!r:.80}"
            )
        text = event.text
    if events[-1].finish_reason is None:
        raise CheckFailed(f"{what} ends after {len(events)} events without a reason")
    if text != whole:
        raise CheckFailed(f"{what} says {text!r:.160}, and without a stream it is {whole!r:.160}")
    return f"{len(events)} events, {events[-1].finish_reason}"


@contextlib.asynccontextmanager
async def _paused(client: ServerClient) -> AsyncIterator[None]:
    """Held inside; let go afterwards unless the server refused, also when its answer was not heard."""
    is_paused = True
    try:
        try:
            await client.pause("in_place")
        except (CapabilityMissing, RequestRefused):
            is_paused = False
            raise
        yield
    finally:
        if is_paused:
            await client.resume()


async def _run_through(client: ServerClient, prompt: Prompt, tokens: int) -> int:
    found = await client.generate(prompt, max_new_tokens=tokens, ignore_eos=True)
    return found.completion_tokens


async def _begun(client: ServerClient, running: list[asyncio.Task[int]]) -> None:
    """Return once a request that came after them has its first token, so that they are being served."""
    await client.generate(different_words(count=4, seed=300), max_new_tokens=1)
    for one in running:
        if one.done():
            one.result()
