"""What a generation looks like in SGLang's JSON."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from scripted_reference.models.base import TokenLogprobs
from scripted_reference.models.tokenizer import Tokenizer
from scripted_reference.server.generation import Generation

WEIGHT_VERSION = "default"


def generation_json(
    generation: Generation, *, tokenizer: Tokenizer, with_text_in_logprobs: bool
) -> dict[str, Any]:
    """Text, tokens and `meta_info` so far."""
    spec = generation.spec
    meta: dict[str, Any] = {
        "id": generation.rid,
        "finish_reason": finish_reason_json(generation),
        "prompt_tokens": len(spec.input_ids),
        "weight_version": WEIGHT_VERSION,
        "completion_tokens": len(generation.output_ids),
        "cached_tokens": generation.cached_tokens,
    }
    if generation.ended_s is not None:
        meta["e2e_latency"] = generation.ended_s - generation.begun_s
    if generation.spec_verify_ct:
        meta["spec_verify_ct"] = generation.spec_verify_ct
        meta["spec_accept_length"] = len(generation.output_ids) / generation.spec_verify_ct
    if spec.return_logprob:
        text = tokenizer if with_text_in_logprobs else None
        meta["input_token_logprobs"] = _chosen(generation.input_logprobs, text)
        meta["output_token_logprobs"] = _chosen(generation.output_logprobs, text)
        if spec.top_logprobs_num:
            meta["input_top_logprobs"] = _top(generation.input_logprobs, text)
            meta["output_top_logprobs"] = _top(generation.output_logprobs, text)
    return {"text": generation.text, "output_ids": generation.output_ids, "meta_info": meta}


def finish_reason_json(generation: Generation) -> dict[str, Any] | None:
    """`type`, and with it the length, what was matched, or why it was aborted."""
    finish = generation.finish
    if finish is None:
        return None
    match finish.kind:
        case "length":
            return {"type": "length", "length": len(generation.output_ids)}
        case "stop":
            return {"type": "stop", "matched": generation.stop_string or finish.matched_token}
        case kind:
            return {"type": kind, "message": finish.message or ""}


def _chosen(
    positions: Sequence[TokenLogprobs], text: Tokenizer | None
) -> list[tuple[float | None, int, str | None]]:
    return [(at.logprob, at.token_id, _text(at.token_id, text)) for at in positions]


def _top(
    positions: Sequence[TokenLogprobs], text: Tokenizer | None
) -> list[list[tuple[float, int, str | None]] | None]:
    return [
        [(logprob, token, _text(token, text)) for token, logprob in at.top] or None
        for at in positions
    ]


def _text(token: int, tokenizer: Tokenizer | None) -> str | None:
    return None if tokenizer is None else tokenizer.decode([token])
