"""A typed client of LLM serving engines, over SGLang's `/generate` or OpenAI's `/v1/completions`."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from scripted_core.errors import CapabilityMissing, ConfigError

from scripted_kit_client.errors import CheckFailed, ServerUnreachable
from scripted_kit_client.http import HttpSession, Reply, accepted
from scripted_kit_client.replies import (
    Generation,
    StreamEvent,
    from_completion,
    from_generate,
    number_or_none,
)
from scripted_kit_client.target import Api, Target

Prompt = str | Sequence[int]
REFERENCE_ENGINE = "scripted-reference"


@dataclass(frozen=True, kw_only=True)
class ServerFacts:
    """What a server says of itself.

    Attributes:
        engine: `scripted-reference`, `sglang`, `vllm`, or `unknown`.
        version: its version, or empty.
        model: what it calls its model.
        api: the routes that are used, never `AUTO`.
        arguments: what `/server_info` holds; empty where there is none.
    """

    engine: str
    version: str
    model: str
    api: Api
    arguments: Mapping[str, Any]


class ServerClient:
    """One server; made by `open_client`. Methods raise the errors of `errors`, and `EngineDied`."""

    def __init__(self, http: HttpSession, facts: ServerFacts) -> None:
        self.http = http
        self.facts = facts

    @property
    def target(self) -> Target:
        """The server."""
        return self.http.target

    async def generate(
        self,
        prompt: Prompt,
        *,
        max_new_tokens: int,
        temperature: float = 0.0,
        ignore_eos: bool = False,
        stop: Sequence[str] = (),
        return_logprob: bool = False,
        logprob_start_len: int | None = None,
        timeout_s: float | None = None,
    ) -> Generation:
        """Generate after a text or token ids.

        `return_logprob` asks for the log probabilities of the output; `logprob_start_len` for those of
        the prompt from that position on as well.
        """
        options = _Options(
            max_new_tokens, temperature, ignore_eos, tuple(stop), return_logprob, logprob_start_len
        )
        if self.facts.api is Api.GENERATE:
            body = {**_prompt_field(prompt), **options.for_generate()}
            reply = await self.http.post_ok("/generate", body, timeout_s=timeout_s)
            return from_generate(reply.json())
        (found,) = await self._complete([prompt], options, timeout_s)
        return found

    async def generate_batch(
        self,
        prompts: Sequence[str],
        *,
        max_new_tokens: int,
        return_logprob: bool = False,
        logprob_start_len: int | None = None,
        timeout_s: float | None = None,
    ) -> list[Generation]:
        """Generate greedily after several texts that travel in one request, in their order."""
        options = _Options(
            max_new_tokens, 0.0, False, (), return_logprob or False, logprob_start_len
        )
        if self.facts.api is not Api.GENERATE:
            return await self._complete(prompts, options, timeout_s)
        body = {"text": list(prompts), **options.for_generate()}
        reply = (await self.http.post_ok("/generate", body, timeout_s=timeout_s)).json()
        if not isinstance(reply, list) or len(reply) != len(prompts):
            raise CheckFailed(
                f"/generate was given {len(prompts)} prompts and answered with {reply!r:.200}"
            )
        return [from_generate(one) for one in reply]

    async def _complete(
        self, prompts: Sequence[Prompt], options: _Options, timeout_s: float | None
    ) -> list[Generation]:
        """One request for each prompt: the usage of a list is told as a sum, and lengths are needed."""
        replies = await asyncio.gather(
            *(
                self.http.post_ok(
                    "/v1/completions",
                    {
                        "model": self.facts.model,
                        "prompt": prompt if isinstance(prompt, str) else list(prompt),
                        **options.for_completions(),
                    },
                    timeout_s=timeout_s,
                )
                for prompt in prompts
            )
        )
        return [
            from_completion(
                _only_choice(reply),
                usage=reply.json_object().get("usage"),
                echoed=options.logprob_start_len is not None,
                logprob_start_len=options.logprob_start_len or 0,
            )
            for reply in replies
        ]

    async def stream(
        self, prompt: Prompt, *, max_new_tokens: int, timeout_s: float | None = None
    ) -> AsyncIterator[StreamEvent]:
        """Generate greedily, event by event; text is that of all events so far."""
        options = _Options(max_new_tokens, 0.0, False, (), False, None)
        if self.facts.api is Api.GENERATE:
            body = {**_prompt_field(prompt), **options.for_generate(), "stream": True}
            async for event in self.http.events("/generate", body, timeout_s=timeout_s):
                meta = event.get("meta_info")
                meta = meta if isinstance(meta, dict) else {}
                reason = meta.get("finish_reason")
                yield StreamEvent(
                    text=str(event.get("text", "")),
                    finish_reason=reason.get("type") if isinstance(reason, dict) else None,
                    completion_tokens=meta.get("completion_tokens"),
                )
            return
        async for one in self.stream_completions(
            prompt, max_new_tokens=max_new_tokens, timeout_s=timeout_s
        ):
            yield one

    async def stream_completions(
        self, prompt: Prompt, *, max_new_tokens: int, timeout_s: float | None = None
    ) -> AsyncIterator[StreamEvent]:
        """The same over `/v1/completions`, whose events hold what is new: text is their sum."""
        options = _Options(max_new_tokens, 0.0, False, (), False, None)
        body = {
            "model": self.facts.model,
            "prompt": prompt if isinstance(prompt, str) else list(prompt),
            **options.for_completions(),
            "stream": True,
        }
        text = ""
        async for event in self.http.events("/v1/completions", body, timeout_s=timeout_s):
            choices = event.get("choices")
            if not choices:
                continue  # what was used
            if not isinstance(choices, list) or not isinstance(choices[0], dict):
                raise CheckFailed(
                    f"an event of the stream of /v1/completions has choices={choices!r:.200}"
                )
            reason = choices[0].get("finish_reason")
            text += str(choices[0].get("text") or "")
            yield StreamEvent(
                text=text,
                finish_reason=None if reason is None else str(reason),
                completion_tokens=None,
            )

    async def server_info(self) -> dict[str, Any]:
        """`/server_info` now; `CapabilityMissing` where there is none."""
        reply = await self.http.get("/server_info")
        if reply.status == 404:
            raise CapabilityMissing(
                f"{self.facts.engine} has no /server_info",
                hint="SGLang and the reference engine have it",
            )
        return accepted(reply).json_object()

    async def accept_length(self) -> float | None:
        """Mean accept length of speculation since the start; `None` when nothing speculates."""
        if self.facts.api is not Api.GENERATE and not self.facts.arguments:
            return None
        states = (await self.server_info()).get("internal_states")
        if not isinstance(states, list) or not states or not isinstance(states[0], dict):
            return None
        return number_or_none(states[0], "avg_spec_accept_length", "/server_info")

    async def pause(self, mode: str) -> None:
        """`/pause_generation`; `CapabilityMissing` where there is none."""
        reply = await self.http.post("/pause_generation", {"mode": mode})
        if reply.status == 404:
            raise CapabilityMissing(f"{self.facts.engine} has no /pause_generation")
        accepted(reply)

    async def resume(self) -> None:
        """`/continue_generation`."""
        await self.http.post_ok("/continue_generation", {})

    async def flush_cache(self) -> None:
        """`/flush_cache`, where there is one."""
        reply = await self.http.post("/flush_cache", {})
        if reply.status != 404:
            accepted(reply)


@contextlib.asynccontextmanager
async def open_client(target: Target) -> AsyncIterator[ServerClient]:
    """Connect, and find out what the server is.

    Raises `ServerUnreachable`, `RequestRefused` (a wrong key for one), and `ConfigError` when it lacks
    the API that `target` asks for.
    """
    async with HttpSession(target) as http:
        yield ServerClient(http, await _facts(http))


async def _facts(http: HttpSession) -> ServerFacts:
    target = http.target
    info_reply = await http.get("/server_info")
    if info_reply.status in (401, 403):
        accepted(info_reply)
    info = info_reply.json_object() if info_reply.is_ok else {}
    models = await http.get("/v1/models")
    if not info and not models.is_ok:
        raise ServerUnreachable(
            f"what answers at {target.url} is no LLM server: /server_info has status "
            f"{info_reply.status}, /v1/models {models.status}",
            hint="is the path of the URL right? A proxy's path belongs to it (http://host/path), what "
            "OpenAI's clients have behind it (/v1) does not",
        )
    if target.api is Api.GENERATE and not info:
        raise ConfigError(
            f"the server at {target.url} has no /server_info, hence no /generate",
            hint="use the API openai, or auto",
        )
    api = (Api.GENERATE if info else Api.OPENAI) if target.api is Api.AUTO else target.api
    engine, version = await _engine(http, info)
    return ServerFacts(
        engine=engine,
        version=version,
        model=target.model
        or _first_model(models)
        or str(info.get("served_model_name") or "default"),
        api=api,
        arguments=info,
    )


async def _engine(http: HttpSession, info: Mapping[str, Any]) -> tuple[str, str]:
    if info:
        return str(info.get("engine") or "sglang"), str(info.get("version") or "")
    reply = await http.get("/version")  # vLLM's
    if reply.is_ok:
        with contextlib.suppress(CheckFailed):
            return "vllm", str(reply.json_object().get("version") or "")
    return "unknown", ""


def _first_model(reply: Reply) -> str | None:
    if not reply.is_ok:
        return None
    data = reply.json_object().get("data")
    if not data:
        return None
    if not isinstance(data, list) or not isinstance(data[0], dict) or "id" not in data[0]:
        raise CheckFailed(f"/v1/models has data={data!r:.200} where a list of models belongs")
    return str(data[0]["id"])


@dataclass(frozen=True)
class _Options:
    max_new_tokens: int
    temperature: float
    ignore_eos: bool
    stop: tuple[str, ...]
    return_logprob: bool
    logprob_start_len: int | None

    def for_generate(self) -> dict[str, Any]:
        sampling: dict[str, Any] = {
            "max_new_tokens": self.max_new_tokens,
            "temperature": self.temperature,
            "ignore_eos": self.ignore_eos,
        }
        if self.stop:
            sampling["stop"] = list(self.stop)
        body: dict[str, Any] = {"sampling_params": sampling}
        if self.return_logprob or self.logprob_start_len is not None:
            body["return_logprob"] = True
            if self.logprob_start_len is not None:
                body["logprob_start_len"] = self.logprob_start_len
        return body

    def for_completions(self) -> dict[str, Any]:
        body: dict[str, Any] = {
            "max_tokens": self.max_new_tokens,
            "temperature": self.temperature,
        }
        if self.ignore_eos:
            body["ignore_eos"] = True  # an extension of SGLang and vLLM
        if self.stop:
            body["stop"] = list(self.stop)
        if self.return_logprob or self.logprob_start_len is not None:
            body["logprobs"] = 1
        if self.logprob_start_len is not None:
            body["echo"] = True
        return body


def _prompt_field(prompt: Prompt) -> dict[str, Any]:
    return {"text": prompt} if isinstance(prompt, str) else {"input_ids": list(prompt)}


def _only_choice(reply: Reply) -> object:
    choices = reply.json_object().get("choices")
    if not isinstance(choices, list) or len(choices) != 1:
        raise CheckFailed(f"/v1/completions answered one prompt with choices={choices!r:.200}")
    return choices[0]
