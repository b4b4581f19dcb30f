"""One long request alone on the server, and what `/metrics` says meanwhile."""

from __future__ import annotations

import asyncio
import contextlib
import time
from dataclasses import dataclass

from scripted_kit_client.client import ServerClient
from scripted_kit_client.errors import RequestRefused, RequestTimedOut
from scripted_kit_client.progress import Progress
from scripted_kit_client.replies import Generation

from scripted_kit_occupancy.scrape import Scrape, parse_scrape


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """What was seen while one request ran; nobody changes it afterwards.

    Attributes:
        scrapes: in order of time.
        failed_scrapes: how many had no answer in time, or an error for one.
        generation: what the request produced, in `elapsed_s` seconds.
    """

    scrapes: tuple[Scrape, ...]
    failed_scrapes: int
    generation: Generation
    elapsed_s: float


async def scrape(client: ServerClient, *, at_s: float = 0.0, timeout_s: float) -> Scrape:
    """One scrape; `RequestRefused` where there are no metrics."""
    reply = await client.http.get_ok("/metrics", timeout_s=timeout_s)
    return parse_scrape(reply.text, at_s=at_s)


async def measure(
    client: ServerClient,
    *,
    prompt: str,
    max_new_tokens: int,
    interval_s: float,
    scrape_timeout_s: float,
    request_timeout_s: float,
    progress: Progress,
) -> Measurement:
    """Send the request and scrape every `interval_s` until it ends; its end is waited for, not polled.

    An error of the request, or a server that dies, ends it at once with that error.
    """
    begun_s = time.perf_counter()
    request = asyncio.create_task(
        client.generate(
            prompt, max_new_tokens=max_new_tokens, ignore_eos=True, timeout_s=request_timeout_s
        )
    )
    scrapes: list[Scrape] = []
    failed = 0
    progress.begin("one long request", None)
    try:
        while not (await asyncio.wait({request}, timeout=interval_s))[0]:
            at_s = time.perf_counter() - begun_s
            try:
                scrapes.append(await scrape(client, at_s=at_s, timeout_s=scrape_timeout_s))
            except (RequestTimedOut, RequestRefused):
                failed += 1
            progress.done(len(scrapes))
        generation = request.result()
    finally:
        request.cancel()
        with contextlib.suppress(asyncio.CancelledError, Exception):
            await request
    return Measurement(
        scrapes=tuple(scrapes),
        failed_scrapes=failed,
        generation=generation,
        elapsed_s=time.perf_counter() - begun_s,
    )
