"""The client of a ``/generate`` stream, as a user of such an engine would write it."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Mapping
from typing import Any

import aiohttp
import msgspec
from scripted_core.requests import ClientStream, ReqSpec
from scripted_core.views import FinishKind, FinishReason

from scripted_hook.poster import BackgroundHttpPoster

_DATA = b"data:"
_DONE = b"[DONE]"


class GenerateClient:
    """Posts requests with streaming on and feeds what comes back into a ``ClientStream``.

    ``wake_fd`` becomes readable whenever a stream has ended, so that a scheduler that waits for an
    arrival also notices a refusal.
    """

    def __init__(self, *, poster: BackgroundHttpPoster, base_url: str) -> None:
        self._poster = poster
        self._url = f"{base_url}/generate"
        self.wake_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)

    def post(self, spec: ReqSpec, client: ClientStream) -> None:
        """Start one stream in the background."""
        stream = self._poster.submit_coro(self._stream(generate_payload(spec), client))
        client.closes_by(stream.cancel)

    def acknowledge(self) -> None:
        """Clear ``wake_fd``."""
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self.wake_fd)

    def close(self) -> None:
        """Close ``wake_fd``."""
        os.close(self.wake_fd)

    async def _stream(self, payload: dict[str, Any], client: ClientStream) -> None:
        try:
            session = await self._poster.session()
            async with session.post(self._url, json=payload) as response:
                client.http_status = response.status
                if response.status != 200:
                    client.fail((await response.text())[:2000])
                    return
                async for line in response.content:
                    if line.startswith(_DATA):
                        body = line[len(_DATA) :].strip()
                        if body == _DONE:
                            break
                        _receive(client, msgspec.json.decode(body))
            if not client.ended:
                client.fail("the stream ended without a finish reason")
        except asyncio.CancelledError:
            client.fail("the client hung up")
            raise
        except aiohttp.ClientError as error:
            client.fail(f"{type(error).__name__}: {error}")
        finally:
            os.eventfd_write(self.wake_fd, 1)


def generate_payload(spec: ReqSpec) -> dict[str, Any]:
    """The JSON body of ``/generate`` for a request, in SGLang's field names."""
    sampling: dict[str, Any] = {
        "max_new_tokens": spec.max_new_tokens,
        "temperature": 0.0 if spec.temperature is None else spec.temperature,
        "ignore_eos": spec.ignore_eos,
    }
    if spec.stop_token_ids is not None:
        sampling["stop_token_ids"] = list(spec.stop_token_ids)
    payload: dict[str, Any] = {
        "rid": spec.rid,
        "input_ids": list(spec.input_ids),
        "sampling_params": sampling,
        "stream": True,
    }
    if spec.return_logprob:
        payload["return_logprob"] = True
    for name in ("logprob_start_len", "top_logprobs_num", "priority", "lora_path"):
        value = getattr(spec, name)
        if value is not None:
            payload[name] = value
    if spec.dp_rank is not None:
        payload["routed_dp_rank"] = spec.dp_rank
    return payload


def _receive(client: ClientStream, event: Mapping[str, Any]) -> None:
    """One server-sent event: ``output_ids`` is all output so far, or an error in its place."""
    error = event.get("error")
    if error is not None:
        client.fail(str(error.get("message", error)) if isinstance(error, Mapping) else str(error))
        return
    output_ids = event.get("output_ids")
    if output_ids is not None:
        client.receive_all(output_ids)
    client.meta_info = event.get("meta_info", {})
    reason = client.meta_info.get("finish_reason")
    if reason is not None:
        client.end(finish_reason_of(reason))


def finish_reason_of(reason: Mapping[str, Any]) -> FinishReason:
    """A finish reason from its JSON form ``{"type": …, "message": …}``."""
    kinds = {"stop": FinishKind.STOP, "length": FinishKind.LENGTH, "abort": FinishKind.ABORT}
    return FinishReason(
        kind=kinds.get(str(reason.get("type")), FinishKind.STOP),
        message=str(reason.get("message") or ""),
    )
