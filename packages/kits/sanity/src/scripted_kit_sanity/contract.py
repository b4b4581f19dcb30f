"""The API contract: routes that have to be there, and what they have to answer."""

from __future__ import annotations

from typing import Any, Final

from scripted_core.errors import CapabilityMissing
from scripted_kit_client.client import ServerClient
from scripted_kit_client.errors import CheckFailed
from scripted_kit_client.http import Reply
from scripted_kit_client.kit import Probe

from scripted_kit_sanity.options import SanityOptions

_PROMPT: Final = "The capital of France is"
_TOKENS: Final = 8


async def health(client: ServerClient, options: SanityOptions) -> str:
    """`/health` answers 200."""
    await client.http.get_ok("/health")
    return "/health answers 200"


async def health_generate(client: ServerClient, options: SanityOptions) -> str:
    """`/health_generate` answers 200: the scheduler generates a token."""
    _there(await client.http.get("/health_generate"), client)
    return "/health_generate answers 200"


async def server_info(client: ServerClient, options: SanityOptions) -> str:
    """`/server_info`, also under its old name, is an object with something in it."""
    info = await client.server_info()
    old = _there(await client.http.get("/get_server_info"), client).json_object()
    if not info or not old:
        raise CheckFailed("/server_info is an empty object")
    return f"{len(info)} fields"


async def model_info(client: ServerClient, options: SanityOptions) -> str:
    """`/model_info`, also under its old name, names the model."""
    for path in ("/model_info", "/get_model_info"):
        found = _there(await client.http.get(path), client).json_object().get("model_path")
        if not found or not isinstance(found, str):
            raise CheckFailed(f"{path} has model_path={found!r}")
    return f"model_path is {found}"


async def models(client: ServerClient, options: SanityOptions) -> str:
    """`/v1/models` lists at least one model by its id."""
    body = (await client.http.get_ok("/v1/models")).json_object()
    data = body.get("data")
    if not isinstance(data, list) or not data or not all(_is_card(card) for card in data):
        raise CheckFailed(f"/v1/models has data={data!r:.200} where a list of models belongs")
    return ", ".join(card["id"] for card in data)


async def completion(client: ServerClient, options: SanityOptions) -> str:
    """`/v1/completions` answers with one choice, its text, and what was used."""
    reply = await client.http.post_ok(
        "/v1/completions",
        {
            "model": client.facts.model,
            "prompt": _PROMPT,
            "temperature": 0,
            "max_tokens": _TOKENS,
        },
    )
    choice, usage = _choice_and_usage(reply)
    text = choice.get("text")
    if not isinstance(text, str) or not text:
        raise CheckFailed(f"/v1/completions has text={text!r}")
    if usage.get("completion_tokens") not in range(1, _TOKENS + 1):
        raise CheckFailed(
            f"/v1/completions was asked for {_TOKENS} tokens and tells of "
            f"completion_tokens={usage.get('completion_tokens')!r}"
        )
    prompt = usage.get("prompt_tokens")
    if (
        not isinstance(prompt, int)
        or usage.get("total_tokens") != prompt + usage["completion_tokens"]
    ):
        raise CheckFailed(f"the usage of /v1/completions does not add up: {usage!r}")
    return f"{usage['completion_tokens']} tokens, {choice.get('finish_reason')}"


async def chat_completion(client: ServerClient, options: SanityOptions) -> str:
    """`/v1/chat/completions` answers with one message and what was used."""
    reply = await client.http.post(
        "/v1/chat/completions",
        {
            "model": client.facts.model,
            "messages": [{"role": "user", "content": "Say hi in one word."}],
            "temperature": 0,
            "max_tokens": _TOKENS,
        },
    )
    if reply.status == 400 and "chat template" in reply.text.lower():
        raise CapabilityMissing(f"the model of {client.facts.engine} has no chat template")
    choice, usage = _choice_and_usage(_there(reply, client))
    message = choice.get("message")
    content = message.get("content") if isinstance(message, dict) else None
    if not isinstance(content, str) or not content:
        raise CheckFailed(f"/v1/chat/completions has message={message!r}")
    return f"{usage.get('completion_tokens')} tokens, {choice.get('finish_reason')}"


async def bad_request(client: ServerClient, options: SanityOptions) -> str:
    """A body that makes no sense is a 4xx, and the server serves on."""
    body = {"model": client.facts.model, "prompt": {"no": "prompt"}, "max_tokens": "many"}
    reply = await client.http.post("/v1/completions", body)
    if not 400 <= reply.status < 500:
        raise CheckFailed(
            f"a body without a prompt was answered with {reply.status}: {reply.text:.200}"
        )
    await client.generate(_PROMPT, max_new_tokens=1)
    return f"status {reply.status}"


CONTRACT: Final = (
    Probe(name="health", look=health),
    Probe(name="health_generate", look=health_generate),
    Probe(name="server_info", look=server_info),
    Probe(name="model_info", look=model_info),
    Probe(name="models", look=models),
    Probe(name="completion", look=completion),
    Probe(name="chat_completion", look=chat_completion),
    Probe(name="bad_request", look=bad_request),
)


def _there(reply: Reply, client: ServerClient) -> Reply:
    from scripted_kit_client.http import accepted

    if reply.status in (404, 405):
        raise CapabilityMissing(f"{client.facts.engine} has no {reply.path}")
    return accepted(reply)


def _choice_and_usage(reply: Reply) -> tuple[dict[str, Any], dict[str, Any]]:
    body = reply.json_object()
    choices, usage = body.get("choices"), body.get("usage")
    if not isinstance(choices, list) or len(choices) != 1 or not isinstance(choices[0], dict):
        raise CheckFailed(f"{reply.path} has choices={choices!r:.200} where one choice belongs")
    if not isinstance(usage, dict):
        raise CheckFailed(f"{reply.path} has usage={usage!r}")
    return choices[0], usage


def _is_card(card: object) -> bool:
    return isinstance(card, dict) and isinstance(card.get("id"), str) and bool(card["id"])
