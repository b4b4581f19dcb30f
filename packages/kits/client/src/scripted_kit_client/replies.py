"""What servers answer, in one shape whichever API was asked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

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
        token_ids=tuple(ids) if isinstance(ids, list) else None,
        finish_reason=str(_object(reason, "finish_reason of /generate").get("type")),
        prompt_tokens=_field(meta, "prompt_tokens", int, "meta_info of /generate"),
        completion_tokens=_field(meta, "completion_tokens", int, "meta_info of /generate"),
        cached_tokens=meta.get("cached_tokens"),
        accept_length=_number(meta.get("spec_accept_length")),
        prompt_logprobs=_chosen(meta.get("input_token_logprobs")),
        output_logprobs=_chosen(meta.get("output_token_logprobs")),
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
    completion_tokens = _field(used, "completion_tokens", int, f"usage of {where}")
    found = one.get("logprobs")
    pairs: tuple[TokenLogprob, ...] = ()
    if isinstance(found, dict):
        tokens, values = found.get("tokens") or [], found.get("token_logprobs") or []
        if len(tokens) != len(values):
            raise CheckFailed(
                f"{where} has {len(tokens)} tokens and {len(values)} log probabilities for them"
            )
        pairs = tuple(TokenLogprob(t, v) for t, v in zip(tokens, values, strict=True))
    prompt = len(pairs) - completion_tokens if echoed else 0
    details = used.get("prompt_tokens_details")
    return Generation(
        text=_field(one, "text", str, f"choices of {where}"),
        token_ids=None,
        finish_reason=str(one.get("finish_reason")),
        prompt_tokens=_field(used, "prompt_tokens", int, f"usage of {where}"),
        completion_tokens=completion_tokens,
        cached_tokens=details.get("cached_tokens") if isinstance(details, dict) else None,
        prompt_logprobs=pairs[logprob_start_len:prompt],
        output_logprobs=pairs[prompt:],
    )


def _chosen(value: object) -> tuple[TokenLogprob, ...]:
    if not isinstance(value, Sequence):
        return ()
    return tuple(TokenLogprob(entry[1], entry[0]) for entry in value)


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) else None


def _object(value: object, where: str) -> dict[str, Any]:
    if isinstance(value, dict):
        return value
    raise CheckFailed(f"{where} is {value!r:.200} where an object belongs")


def _field(found: dict[str, Any], name: str, kind: type, where: str) -> Any:
    value = found.get(name)
    if not isinstance(value, kind):
        raise CheckFailed(f"{where} has {name}={value!r:.200} where a {kind.__name__} belongs")
    return value
