"""Speculation and prefill/decode pairs: probes that say something where a server has them."""

from __future__ import annotations

from typing import Final

from scripted_core.errors import CapabilityMissing
from scripted_kit_client.client import ServerClient, open_client
from scripted_kit_client.errors import CheckFailed
from scripted_kit_client.kit import Probe
from scripted_kit_client.target import Target

from scripted_kit_sanity.options import SanityOptions
from scripted_kit_sanity.prompts import different_tokens

_PROMPT_TOKENS: Final = 128
_OUTPUT_TOKENS: Final = 4
_SPEAKING_TOKENS: Final = 96
_TEXT: Final = "today tina is in the tent ."


async def accept_length(client: ServerClient, options: SanityOptions) -> str:
    """Draft tokens are accepted, where the server speculates."""
    if await client.accept_length() is None and not _speculates(client):
        raise CapabilityMissing("the server does not speculate (SPEC_DECODE)")
    spoken = await client.generate(_TEXT, max_new_tokens=_SPEAKING_TOKENS, ignore_eos=True)
    average = await client.accept_length()
    found = average if spoken.accept_length is None else spoken.accept_length
    since = "" if average is None else f" (avg_spec_accept_length of the server {average:.3f})"
    if found is None:
        raise CheckFailed(
            "the server was started with a draft model, and /server_info tells no "
            "avg_spec_accept_length after a request"
        )
    floor = options.accept_length_floor
    if found <= floor:
        raise CheckFailed(
            f"accept length {found:.3f}, floor {floor:g}{since}: hardly a draft token is accepted, "
            "so every step costs a draft and gives one token"
        )
    return f"accept length {found:.3f}, floor {floor:g}{since}"


async def logprob_parity(client: ServerClient, options: SanityOptions) -> str:
    """The same tokens with the same log probabilities as another server, fresh and from its cache."""
    if options.parity_url is None:
        raise CapabilityMissing("no server to compare with was given (parity_url)")
    prompt = different_tokens(client, count=_PROMPT_TOKENS, seed=21)
    target = client.target
    other_target = Target(
        url=options.parity_url,
        api_key=target.api_key,
        headers=target.headers,
        timeout_s=target.timeout_s,
        api=client.facts.api,
    )
    async with open_client(other_target) as other:
        expected = await _said(other, prompt)
    await client.flush_cache()
    worst = 0.0
    for when in ("with an empty cache", "from its cache"):
        found = await _said(client, prompt)
        if [token for token, _ in found] != [token for token, _ in expected]:
            raise CheckFailed(
                f"{when} the tokens are {[token for token, _ in found]}, and those of "
                f"{options.parity_url} are {[token for token, _ in expected]}"
            )
        off = max(abs(a - b) for (_, a), (_, b) in zip(found, expected, strict=True))
        worst = max(worst, off)
        if off > options.logprob_tolerance:
            raise CheckFailed(
                f"{when} a log probability is {off:.4f} from that of {options.parity_url}, "
                f"allowed are {options.logprob_tolerance:g}"
            )
    return f"{_OUTPUT_TOKENS} tokens, log probabilities at most {worst:.2g} apart"


PAIRS: Final = (
    Probe(name="accept_length", look=accept_length),
    Probe(name="logprob_parity", look=logprob_parity),
)


def _speculates(client: ServerClient) -> bool:
    return client.facts.arguments.get("speculative_algorithm") not in (None, "", "NONE")


async def _said(client: ServerClient, prompt: object) -> list[tuple[int | str, float]]:
    found = await client.generate(
        prompt if isinstance(prompt, str) else list(prompt),  # type: ignore[call-overload]
        max_new_tokens=_OUTPUT_TOKENS,
        ignore_eos=True,
        return_logprob=True,
    )
    if len(found.output_logprobs) != _OUTPUT_TOKENS:
        raise CheckFailed(
            f"{client.target.url} told {len(found.output_logprobs)} log probabilities of "
            f"{_OUTPUT_TOKENS} tokens"
        )
    return [(token, 0.0 if value is None else value) for token, value in found.output_logprobs]
