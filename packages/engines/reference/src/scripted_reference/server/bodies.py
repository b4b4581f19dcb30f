"""Bodies of `/generate` and the control calls: what may be in them, checked by msgspec.

The field names are SGLang's. As there, a name that nobody knows is passed over; one that is known and
asks for something that this engine lacks is refused, unless its value asks for nothing.
"""

from __future__ import annotations

from typing import Annotated, Any, Final, TypeVar

import msgspec
from aiohttp import web

from scripted_reference.server.http_errors import RequestError

_Int32 = Annotated[int, msgspec.Meta(ge=-(2**31), lt=2**31)]
_Int63 = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]
Stop = str | list[str] | None
_T = TypeVar("_T")

_LACKING: Final[dict[str, tuple[object, ...]]] = {
    # field: the values that ask for nothing
    "input_embeds": (None,),
    "image_data": (None, []),
    "video_data": (None, []),
    "audio_data": (None, []),
    "token_ids_logprob": (None, []),
    "return_hidden_states": (None, False),
    "return_routed_experts": (None, False),
    "session_params": (None,),
    "custom_logit_processor": (None,),
    "watermark": (None,),
}


class SamplingBody(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """SGLang's sampling parameters, with its defaults."""

    max_new_tokens: _Int32 = 128
    temperature: float = 1.0
    ignore_eos: bool = False
    stop: Stop = None
    stop_token_ids: list[_Int63] | None = None
    sampling_seed: _Int63 | None = None
    no_stop_trim: bool = False
    # Accepted as long as they change nothing.
    n: int = 1
    top_p: float = 1.0
    top_k: int = -1
    min_p: float = 0.0
    min_new_tokens: int = 0
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    repetition_penalty: float = 1.0
    skip_special_tokens: bool = True
    spaces_between_special_tokens: bool = True
    stream_interval: int | None = None
    stop_regex: str | list[str] | None = None
    json_schema: str | None = None
    regex: str | None = None
    ebnf: str | None = None
    structural_tag: str | None = None
    logit_bias: dict[str, float] | None = None
    custom_params: dict[str, Any] | None = None

    def refuse_what_is_lacking(self) -> None:
        """Raise `RequestError` for a parameter that would have to change the output."""
        for name, neutral in _NEUTRAL_SAMPLING.items():
            value = msgspec.structs.asdict(self)[name]
            if value not in neutral:
                raise RequestError(
                    f"sampling_params.{name}={value!r}: the reference engine lacks it; leave it out"
                )


_NEUTRAL_SAMPLING: Final[dict[str, tuple[object, ...]]] = {
    "n": (1,),
    "top_p": (1.0,),
    "top_k": (-1,),
    "min_p": (0.0,),
    "min_new_tokens": (0,),
    "frequency_penalty": (0.0,),
    "presence_penalty": (0.0,),
    "repetition_penalty": (1.0,),
    "stop_regex": (None, []),
    "json_schema": (None,),
    "regex": (None,),
    "ebnf": (None,),
    "structural_tag": (None,),
    "logit_bias": (None, {}),
    "custom_params": (None, {}),
}


class GenerateBody(msgspec.Struct, kw_only=True):
    """`POST /generate`: one prompt, or a list of prompts with one value or a list for each field."""

    text: str | list[str] | None = None
    input_ids: list[_Int63 | list[_Int63]] | None = None
    sampling_params: SamplingBody | list[SamplingBody] | None = None
    rid: str | list[str] | None = None
    stream: bool = False
    return_logprob: bool | list[bool] | None = None
    logprob_start_len: _Int32 | list[_Int32] | None = None
    top_logprobs_num: _Int32 | list[_Int32] | None = None
    return_text_in_logprobs: bool = False
    lora_path: str | list[str | None] | None = None
    priority: _Int63 | None = None
    data_parallel_rank: _Int32 | None = None
    routed_dp_rank: _Int32 | None = None
    bootstrap_host: str | list[str] | None = None
    bootstrap_port: _Int32 | list[_Int32] | None = None
    bootstrap_room: _Int63 | list[_Int63] | None = None


class PauseBody(msgspec.Struct, kw_only=True):
    """`POST /pause_generation`."""

    mode: str = "abort"


class ContinueBody(msgspec.Struct, kw_only=True):
    """`POST /continue_generation`; there is no cache of torch's to empty."""

    torch_empty_cache: bool = False


class AbortBody(msgspec.Struct, kw_only=True):
    """`POST /abort_request`."""

    rid: str | None = None
    abort_all: bool = False


async def read_body(request: web.Request, kind: type[_T], *, may_be_empty: bool = False) -> _T:
    """The body of a request as `kind`; `RequestError` that says what is wrong with it."""
    try:
        data = await request.read()
    except web.RequestPayloadError as error:  # it is not compressed as its header says
        # What comes after it cannot be told from the rest of it: read on nothing, and hang up.
        request.content.feed_eof()
        request.protocol.close()
        raise RequestError(f"the body cannot be read: {error}") from error
    if may_be_empty and not data:
        data = b"{}"
    try:
        return msgspec.json.decode(data, type=kind)
    except msgspec.ValidationError as error:
        raise RequestError(f"the body does not fit {request.path}: {error}") from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise RequestError(f"the body is no JSON: {error}") from error


async def read_generate_body(request: web.Request) -> GenerateBody:
    """The body of `/generate`, without anything in it that the engine lacks."""
    body = await read_body(request, GenerateBody)
    raw = msgspec.json.decode(await request.read(), type=dict[str, msgspec.Raw])
    for name in _LACKING.keys() & raw.keys():
        if msgspec.json.decode(raw[name]) not in _LACKING[name]:
            raise RequestError(f"{name}: the reference engine lacks it; leave it out")
    return body
