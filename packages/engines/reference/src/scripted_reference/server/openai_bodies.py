"""The body of OpenAI's `POST /v1/completions`, and the requests that it asks for."""

from __future__ import annotations

from typing import Annotated, Any, Final

import msgspec

from scripted_reference.server.bodies import Stop
from scripted_reference.server.context import FrontContext
from scripted_reference.server.generation import Generation
from scripted_reference.server.http_errors import RequestError
from scripted_reference.server.plans import (
    meetings_of,
    new_rid,
    refuse_if_impossible,
    stop_strings,
    token_prompts,
)
from scripted_reference.server.wire import Generate

_Int63 = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]
_Int32 = Annotated[int, msgspec.Meta(ge=-(2**31), lt=2**31)]
_MOST_LOGPROBS: Final = 20


class StreamOptions(msgspec.Struct, kw_only=True):
    """What else a stream has in it."""

    include_usage: bool = False


class CompletionsBody(msgspec.Struct, kw_only=True):
    """The fields of OpenAI, and some of SGLang's; any other is passed over."""

    prompt: str | list[str | _Int63 | list[_Int63]]
    model: str | None = None
    max_tokens: _Int32 | None = 16
    temperature: float | None = 1.0
    stop: Stop = None
    stream: bool = False
    stream_options: StreamOptions | None = None
    logprobs: _Int32 | None = None
    echo: bool = False
    seed: _Int63 | None = None
    n: int | None = 1
    best_of: int | None = None
    suffix: str | None = None
    top_p: float | None = 1.0
    presence_penalty: float | None = 0.0
    frequency_penalty: float | None = 0.0
    logit_bias: dict[str, float] | None = None
    ignore_eos: bool = False
    stop_token_ids: list[_Int63] | None = None
    rid: str | None = None
    priority: _Int63 | None = None
    lora_path: str | None = None
    bootstrap_host: str | list[str] | None = None
    bootstrap_port: _Int32 | list[_Int32] | None = None
    bootstrap_room: _Int63 | list[_Int63] | None = None

    @property
    def includes_usage(self) -> bool:
        """Whether a stream ends with what was used."""
        return self.stream_options is not None and self.stream_options.include_usage


_NEUTRAL: Final[dict[str, tuple[object, ...]]] = {
    "n": (None, 1),
    "best_of": (None, 1),
    "suffix": (None, ""),
    "top_p": (None, 1.0),
    "presence_penalty": (None, 0.0),
    "frequency_penalty": (None, 0.0),
    "logit_bias": (None, {}),
}


def plan_completions(body: CompletionsBody, context: FrontContext) -> list[Generation]:
    """One request for each prompt; `RequestError` when one of them cannot be served."""
    fields: dict[str, Any] = msgspec.structs.asdict(body)
    for name, neutral in _NEUTRAL.items():
        if fields[name] not in neutral:
            raise RequestError(f"{name}={fields[name]!r}: the reference engine lacks it")
    if body.logprobs is not None and not 0 <= body.logprobs <= _MOST_LOGPROBS:
        raise RequestError(f"logprobs is 0 to {_MOST_LOGPROBS}, got {body.logprobs}")
    prompts = _prompts(body.prompt, context)
    rid = body.rid or f"cmpl-{new_rid()}"
    meetings = meetings_of(body, len(prompts))
    planned = [
        Generation(
            Generate(
                rid=rid if len(prompts) == 1 else f"{rid}_{i}",
                input_ids=input_ids,
                max_new_tokens=16 if body.max_tokens is None else body.max_tokens,
                ignore_eos=body.ignore_eos,
                stop_token_ids=tuple(body.stop_token_ids or ()),
                temperature=1.0 if body.temperature is None else body.temperature,
                seed=body.seed,
                priority=body.priority,
                return_logprob=body.logprobs is not None,
                logprob_start_len=0 if body.echo else -1,
                top_logprobs_num=body.logprobs or 0,
                lora_path=body.lora_path,
                bootstrap=meetings[i],
            ),
            tokenizer=context.tokenizer,
            stop=stop_strings(body.stop),
        )
        for i, input_ids in enumerate(prompts)
    ]
    refuse_if_impossible(planned, context)
    return planned


def _prompts(given: str | list[str | int | list[int]], context: FrontContext) -> list[list[int]]:
    if isinstance(given, str):
        return [context.tokenizer.encode(given)]
    texts = [text for text in given if isinstance(text, str)]
    if not given or (texts and len(texts) != len(given)):
        raise RequestError("prompt is a text, a list of texts, token ids, or a list of token ids")
    if texts:
        return [context.tokenizer.encode(text) for text in texts]
    tokens = [part for part in given if not isinstance(part, str)]
    return token_prompts("prompt", tokens)[0]
