"""The same measurement by EleutherAI's lm-eval, which brings the real data set (an extra)."""

from __future__ import annotations

import asyncio
import importlib
from typing import Any

from scripted_core.errors import ConfigError
from scripted_kit_client.client import ServerClient
from scripted_kit_client.errors import CheckFailed


def arguments(
    client: ServerClient, *, concurrency: int, tokenizer: str | None
) -> dict[str, object]:
    """The model arguments with which lm-eval speaks to the server's OpenAI routes."""
    facts = client.facts
    return {
        "model": facts.model,
        "base_url": client.target.url + "/v1/completions",
        "num_concurrent": concurrency,
        "tokenizer": tokenizer or str(facts.arguments.get("tokenizer_path") or facts.model),
        "tokenized_requests": False,
        "timeout": client.target.timeout_s,
        "header": client.target.all_headers,
    }


async def accuracy_by_lm_eval(
    client: ServerClient,
    *,
    n_shot: int,
    limit: int | None,
    concurrency: int,
    tokenizer: str | None,
) -> float:
    """`acc_norm` of lm-eval's task `hellaswag`; `ConfigError` when the extra is not installed."""
    try:
        lm_eval: Any = importlib.import_module("lm_eval")
    except ModuleNotFoundError as error:
        raise ConfigError(
            "lm-eval is not installed", hint="pip install 'scripted-kit-hellaswag[lm-eval]'"
        ) from error
    found = await asyncio.to_thread(
        lm_eval.simple_evaluate,
        model="local-completions",
        model_args=arguments(client, concurrency=concurrency, tokenizer=tokenizer),
        tasks=["hellaswag"],
        num_fewshot=n_shot,
        limit=limit,
    )
    try:
        return float(found["results"]["hellaswag"]["acc_norm,none"])
    except (KeyError, TypeError) as error:
        raise CheckFailed(f"lm-eval told no acc_norm of hellaswag: {found!r:.200}") from error
