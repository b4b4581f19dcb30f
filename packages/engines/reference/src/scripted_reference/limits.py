"""What a request may ask for: the limits of context, pool and vocabulary."""

from __future__ import annotations

import sys
from typing import NamedTuple

from scripted_reference.messages import GenerateReq


class RequestLimits(NamedTuple):
    """The limits of one engine, in tokens, and which of its abilities a request can ask for.

    A request of P prompt and N new tokens is P + N tokens of context, and needs P + N - 1 slots at
    most, since its last token is never fed back.
    """

    context_len: int
    pool_tokens: int
    page_size: int
    vocab_size: int
    supports_logprobs: bool = False
    lora_names: frozenset[str] = frozenset()

    def refusal(self, spec: GenerateReq) -> str | None:
        """Return why the request cannot be served at all, or `None` if it can."""
        prompt = spec.input_ids
        prompt_len = len(prompt)
        if not spec.rid:
            return "The request id is empty."
        if prompt_len == 0:
            return "The prompt is empty; give at least one token."
        if set(map(type, prompt)) != {int}:
            return "The prompt must consist of integer token ids."
        if min(prompt) < 0 or max(prompt) >= self.vocab_size:
            wrong = next(token for token in prompt if not 0 <= token < self.vocab_size)
            return f"The prompt has the token id {wrong}; ids are 0 to {self.vocab_size - 1}."
        if prompt_len >= self.context_len:
            return (
                f"The input ({prompt_len} tokens) is longer than the model's context length "
                f"({self.context_len} tokens) allows for with one new token."
            )
        if prompt_len > self.pool_tokens:
            return (
                f"The input ({prompt_len} tokens) is longer than the KV pool "
                f"({self.pool_tokens} tokens); raise max_total_tokens."
            )
        max_new_tokens = spec.sampling_params.max_new_tokens
        if max_new_tokens < 1:
            return f"max_new_tokens must be at least 1, got {max_new_tokens}."
        return (
            self._temperature_refusal(spec.sampling_params.temperature)
            or self._logprob_refusal(spec)
            or self._lora_refusal(spec.lora_path)
        )

    def _temperature_refusal(self, temperature: float | None) -> str | None:
        # Not `< inf`: whole numbers have no end, and arrays cannot be divided by what is no float.
        if temperature is None or 0 <= temperature <= sys.float_info.max:
            return None
        return f"temperature must be a number from 0 on, got {temperature}."

    def _logprob_refusal(self, spec: GenerateReq) -> str | None:
        if not spec.return_logprob:
            return None
        if not self.supports_logprobs:
            return "return_logprob is refused: the model has no probabilities."
        prompt_len = len(spec.input_ids)
        if not -1 <= spec.logprob_start_len < prompt_len:
            return (
                f"logprob_start_len must be -1 or a position of the prompt, 0 to {prompt_len - 1}, "
                f"got {spec.logprob_start_len}."
            )
        if not 0 <= spec.top_logprobs_num <= self.vocab_size:
            return f"top_logprobs_num must be 0 to {self.vocab_size}, got {spec.top_logprobs_num}."
        return None

    def _lora_refusal(self, lora_path: str | None) -> str | None:
        if lora_path is None or lora_path in self.lora_names:
            return None
        known = ", ".join(repr(name) for name in sorted(self.lora_names))
        return f"The LoRA adapter {lora_path!r} is not loaded; " + (
            f"there are {known}." if known else "the engine has none, see lora_paths."
        )

    def clip_new_tokens(self, *, prompt_len: int, max_new_tokens: int) -> int:
        """Return how many new tokens context and pool have room for; clipping is silent."""
        return min(max_new_tokens, self.context_len - prompt_len, self.pool_tokens - prompt_len + 1)
