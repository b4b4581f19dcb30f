"""What servers answer, in one shape whichever API was asked."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeGuard

from scripted_kit_client.errors import CheckFailed


class TokenLogprob(NamedTuple):
    """A token and its natural log probability, `None` where nothing comes before it.

    `token` is its id from `/generate`, and its text from OpenAI's routes.
    """

    token: int | str
    logprob: float | None


@dataclass(frozen=True, kw_only=True)
class Generation:
    """One finished generation.

    Attributes:
        text: the output; from OpenAI's routes behind the prompt, when that was asked for too.
        token_ids: the output tokens; `None` from OpenAI's routes, which do not tell.
        finish_reason: `stop`, `length`, `abort`, …
        prompt_tokens, completion_tokens: lengths in tokens.
        cached_tokens: prompt tokens that came out of the prefix cache; `None` when not told.
        accept_length: tokens of a verification in it; `None` without speculation, and when not told.
        prompt_logprobs: of prompt positions from the first that was asked for on.
        output_logprobs: of each output token, when asked for.
    """

    text: str
    token_ids: tuple[int, ...] | None
    finish_reason: str
    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int | None = None
    accept_length: float | None = None
    prompt_logprobs: tuple[TokenLogprob, ...] = ()
    output_logprobs: tuple[TokenLogprob, ...] = ()


@dataclass(frozen=True, kw_only=True)
class StreamEvent:
    """One event of a stream: all text so far, and how it ended in the last one."""

    text: str
    finish_reason: str | None
    completion_tokens: int | None


def from_generate(body: object) -> Generation:
    """A reply of `/generate` for one prompt; `CheckFailed` names the field that is not as it should."""
    reply = _object(body, "/generate")
    meta = _object(reply.get("meta_info"), "meta_info of /generate")
    reason = meta.get("finish_reason")
    ids = reply.get("output_ids")
    return Generation(
        text=_field(reply, "text", str, "/generate"),
        token_ids=None if ids is None else _ids(ids),
        finish_reason=str(_object(reason, "finish_reason of /generate").get("type")),
        prompt_tokens=_count(meta, "prompt_tokens", "meta_info of /generate"),
        completion_tokens=_count(meta, "completion_tokens", "meta_info of /generate"),
        cached_tokens=_perhaps_count(meta, "cached_tokens", "meta_info of /generate"),
        accept_length=number_or_none(meta, "spec_accept_length", "meta_info of /generate"),
        prompt_logprobs=_chosen(meta, "input_token_logprobs"),
        output_logprobs=_chosen(meta, "output_token_logprobs"),
    )


def from_completion(
    choice: object, *, usage: object, echoed: bool, logprob_start_len: int
) -> Generation:
    """One choice of `/v1/completions`.

    `usage` has to be of this choice alone. `echoed` says that the prompt was asked for, too, with its
    log probabilities.
    """
    where = "/v1/completions"
    one, used = _object(choice, where), _object(usage, f"usage of {where}")
    completion_tokens = _count(used, "completion_tokens", f"usage of {where}")
    pairs = _pairs(one.get("logprobs"), where)
    prompt = len(pairs) - completion_tokens if echoed else 0
    details = used.get("prompt_tokens_details")
    return Generation(
        text=_field(one, "text", str, f"choices of {where}"),
        token_ids=None,
        finish_reason=str(one.get("finish_reason")),
        prompt_tokens=_count(used, "prompt_tokens", f"usage of {where}"),
        completion_tokens=completion_tokens,
        cached_tokens=_perhaps_count(details, "cached_tokens", f"usage of {where}")
        if isinstance(details, dict)
        else None,
        prompt_logprobs=pairs[logprob_start_len:prompt],
        output_logprobs=pairs[prompt:],
    )


def number_or_none(found: Mapping[str, Any], name: str, where: str) -> float | None:
    """A field that is a number, or not told; `CheckFailed` for anything else."""
    value = found.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise CheckFailed(f"{where} has {name}={value!r:.200} where a number belongs")
    return float(value)


def _chosen(meta: Mapping[str, Any], name: str) -> tuple[TokenLogprob, ...]:
    """SGLang's (log probability, token id, text) of each token."""
    entries = meta.get(name)
    if entries is None:
        return ()
    if not isinstance(entries, list):
        raise CheckFailed(f"/generate has {name}={entries!r:.200} where a list belongs")
    found = []
    for i, entry in enumerate(entries):
        if not isinstance(entry, list) or len(entry) < 2 or not _is_count(entry[1]):
            raise CheckFailed(
                f"{name}[{i}] of /generate is {entry!r:.200} where [log probability, token] belongs"
            )
        found.append(TokenLogprob(entry[1], _logprob(entry[0], f"{name}[{i}] of /generate")))
    return tuple(found)


def _pairs(found: object, where: str) -> tuple[TokenLogprob, ...]:
    """OpenAI's tokens, and beside them their log probabilities."""
    if found is None:
        return ()
    both = _object(found, f"logprobs of {where}")
    tokens, values = both.get("tokens") or [], both.get("token_logprobs") or []
    if not isinstance(tokens, list) or not isinstance(values, list) or len(tokens) != len(values):
        raise CheckFailed(
            f"{where} has tokens={tokens!r:.100} and token_logprobs={values!r:.100}, where two lists "
            "of one length belong"
        )
    return tuple(
        TokenLogprob(str(token), _logprob(value, f"token_logprobs[{i}] of {where}"))
        for i, (token, value) in enumerate(zip(tokens, values, strict=True))
    )


def _logprob(value: object, where: str) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or math.isnan(value):
        raise CheckFailed(f"{where} has {value!r:.100} where a log probability belongs")
    return float(value)


def _ids(value: object) -> tuple[int, ...]:
    if not isinstance(value, list) or not all(_is_count(one) for one in value):
        raise CheckFailed(f"/generate has output_ids={value!r:.200} where token ids belong")
    return tuple(value)


def _object(value: object, where: str) -> dict[str, Any]:
    if isinstance(value, dict):
        return value
    raise CheckFailed(f"{where} is {value!r:.200} where an object belongs")


def _field(found: Mapping[str, Any], name: str, kind: type, where: str) -> Any:
    value = found.get(name)
    if not isinstance(value, kind):
        raise CheckFailed(f"{where} has {name}={value!r:.200} where a {kind.__name__} belongs")
    return value


def _count(found: Mapping[str, Any], name: str, where: str) -> int:
    value = found.get(name)
    if not _is_count(value):
        raise CheckFailed(f"{where} has {name}={value!r:.200} where a count belongs")
    return value


def _perhaps_count(found: Mapping[str, Any], name: str, where: str) -> int | None:
    return None if found.get(name) is None else _count(found, name, where)


def _is_count(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0
