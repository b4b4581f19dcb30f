"""From a body of `/generate` to the requests that it asks for."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Sequence
from typing import Final, Protocol, TypeVar

from scripted_reference.bootstrap import DEFAULT_BOOTSTRAP_PORT, Bootstrap
from scripted_reference.server.bodies import GenerateBody, SamplingBody, Stop
from scripted_reference.server.context import FrontContext
from scripted_reference.server.generation import Generation
from scripted_reference.server.http_errors import RequestError
from scripted_reference.server.wire import Generate

_T = TypeVar("_T")
_MOST_STOP_STRINGS: Final = 64


def plan_generate(body: GenerateBody, context: FrontContext) -> tuple[list[Generation], bool]:
    """The requests of a body in order, and whether it asked for a batch.

    Raises `RequestError` when the body contradicts itself, or one of them cannot be served; then
    none of them is.
    """
    prompts, is_batch = _prompts(body, context)
    count = len(prompts)
    sampling = _per_prompt("sampling_params", body.sampling_params or SamplingBody(), count)
    logprob_start = _per_prompt("logprob_start_len", _given(body.logprob_start_len, -1), count)
    top_logprobs = _per_prompt("top_logprobs_num", _given(body.top_logprobs_num, 0), count)
    return_logprob = _per_prompt("return_logprob", _given(body.return_logprob, False), count)
    lora_path = _per_prompt("lora_path", body.lora_path, count)
    dp_rank = body.data_parallel_rank if body.routed_dp_rank is None else body.routed_dp_rank
    meetings = meetings_of(body, count)
    planned = [
        Generation(
            Generate(
                rid=rid,
                input_ids=input_ids,
                max_new_tokens=params.max_new_tokens,
                ignore_eos=params.ignore_eos,
                stop_token_ids=tuple(params.stop_token_ids or ()),
                temperature=params.temperature,
                seed=params.sampling_seed,
                priority=body.priority,
                return_logprob=return_logprob[i],
                logprob_start_len=logprob_start[i],
                top_logprobs_num=top_logprobs[i],
                lora_path=lora_path[i],
                dp_rank=dp_rank,
                bootstrap=meetings[i],
            ),
            tokenizer=context.tokenizer,
            stop=stop_strings(params.stop),
            keep_stop=params.no_stop_trim,
        )
        for i, (rid, input_ids, params) in enumerate(
            zip(_rids(body.rid, count, is_batch=is_batch), prompts, sampling, strict=True)
        )
    ]
    for params in sampling:
        params.refuse_what_is_lacking()
    refuse_if_impossible(planned, context)
    return planned, is_batch


class Meets(Protocol):
    """A body with the fields that the router of a pair adds, one value or a list for each."""

    bootstrap_host: str | list[str] | None
    bootstrap_port: int | list[int] | None
    bootstrap_room: int | list[int] | None


def meetings_of(body: Meets, count: int) -> list[Bootstrap | None]:
    """Where the servers of a pair meet for each prompt; nowhere without a room."""
    if body.bootstrap_room is None:
        return [None] * count
    hosts = _per_prompt("bootstrap_host", _given(body.bootstrap_host, "127.0.0.1"), count)
    ports = _per_prompt(
        "bootstrap_port", _given(body.bootstrap_port, DEFAULT_BOOTSTRAP_PORT), count
    )
    rooms = _per_prompt("bootstrap_room", body.bootstrap_room, count)
    return [Bootstrap(*one) for one in zip(hosts, ports, rooms, strict=True)]


def refuse_if_impossible(planned: Iterable[Generation], context: FrontContext) -> None:
    """Raise `RequestError` for the first request that cannot be served."""
    rids: set[str] = set()
    for generation in planned:
        if generation.rid in rids:
            raise RequestError(f"The request id {generation.rid!r} is given twice.")
        rids.add(generation.rid)
        context.refuse_if_impossible(generation.spec)


def stop_strings(stop: Stop) -> tuple[str, ...]:
    """The stop strings of a body; an empty one would end every request at once and is left out.

    Raises `RequestError` for more of them than can be looked for at every token.
    """
    given = [stop] if isinstance(stop, str) else stop or []
    if len(given) > _MOST_STOP_STRINGS:
        raise RequestError(f"stop has {len(given)} strings, and {_MOST_STOP_STRINGS} is the most")
    return tuple(text for text in given if text)


def new_rid() -> str:
    """An id for a request that came without one."""
    return uuid.uuid4().hex


def encoded(text: str, context: FrontContext) -> list[int]:
    """The tokens of a prompt."""
    return context.tokenizer.encode(text)


def _prompts(body: GenerateBody, context: FrontContext) -> tuple[list[list[int]], bool]:
    if (body.text is None) == (body.input_ids is None):
        raise RequestError("give either text or input_ids")
    if isinstance(body.text, str):
        return [encoded(body.text, context)], False
    if body.text is not None:
        return [encoded(text, context) for text in _not_empty("text", body.text)], True
    assert body.input_ids is not None, "one of the two is given"
    return token_prompts("input_ids", body.input_ids)


def token_prompts(name: str, given: Sequence[int | list[int]]) -> tuple[list[list[int]], bool]:
    """One prompt of token ids, or a list of them; and whether it was a list."""
    ids = [token for token in given if isinstance(token, int)]
    if len(ids) == len(given):
        return [ids], False
    lists = [tokens for tokens in given if not isinstance(tokens, int)]
    if ids:
        raise RequestError(f"{name} mixes token ids and lists of token ids")
    return lists, True


def _not_empty(name: str, values: list[_T]) -> list[_T]:
    if not values:
        raise RequestError(f"{name} is an empty list")
    return values


def _rids(given: str | list[str] | None, count: int, *, is_batch: bool) -> list[str]:
    if given is None:
        return [new_rid() for _ in range(count)]
    if isinstance(given, str):
        return [f"{given}_{i}" for i in range(count)] if is_batch else [given]
    if len(given) != count:
        raise RequestError(f"rid has {len(given)} entries for {count} prompts")
    return given


def _per_prompt(name: str, given: _T | list[_T], count: int) -> list[_T]:
    if not isinstance(given, list):
        return [given] * count
    if len(given) != count:
        raise RequestError(f"{name} has {len(given)} entries for {count} prompts")
    return given


def _given(given: _T | list[_T] | None, default: _T) -> _T | list[_T]:
    return default if given is None else given
