"""Parity: a pair answers what one engine answers that does both."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from scripted_chunked import run_until_all_finished
from scripted_core import ScriptedContext, ScriptedReqHandle

_ONLY_OF_A_PAIR = frozenset(
    {
        "decode_kwargs",
        "disaggregation_mode",
        "num_reserved_decode_tokens",
        "prefill_kwargs",
        "transfer_timeout_iterations",
    }
)


@dataclass(frozen=True)
class Prompt:
    """One request: ``tokens`` random ones of ``seed``, behind ``shared`` that all have in common."""

    tokens: int
    seed: int
    shared: int = 0
    max_new_tokens: int = 16

    def input_ids(self, vocab_size: int) -> list[int]:
        """The prompt, in a vocabulary of this size."""
        common = [1 + (7 * i) % (vocab_size - 2) for i in range(self.shared)]
        own = [
            1 + (self.seed * 7919 + 31 * i * i + i) % (vocab_size - 2) for i in range(self.tokens)
        ]
        return common + own

    def start(self, t: ScriptedContext, **params: Any) -> ScriptedReqHandle:
        """Start it, past any end-of-sequence token."""
        return t.start_req(
            input_ids=self.input_ids(t.engine.vocab_size),
            max_new_tokens=self.max_new_tokens,
            ignore_eos=True,
            **params,
        )


@dataclass(frozen=True)
class Response:
    """What came back: token ids, and their log probabilities where they were asked for."""

    output_ids: tuple[int, ...]
    logprobs: tuple[float, ...] = ()


def single_device_kwargs_of(kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of one engine that does what the pair of ``kwargs`` does."""
    return {name: value for name, value in kwargs.items() if name not in _ONLY_OF_A_PAIR}


def outputs_of_one_engine(prompts: Sequence[Prompt], kwargs: Mapping[str, Any]) -> list[list[int]]:
    """What one engine answers that does what the pair of ``kwargs`` does: token ids of each prompt."""
    found = responses_of(prompts, single_device_kwargs_of(kwargs))
    return [list(response.output_ids) for response in found]


def responses_of(
    prompts: Sequence[Prompt], kwargs: Mapping[str, Any], *, warm: bool = False, **params: Any
) -> list[Response]:
    """What an engine of its own answers, in this process; ``warm`` runs the prompts once before."""
    from scripted_core import InProcessSession  # heavy, and the plugin beside it has to be light

    found: list[Response] = []

    def script(t: ScriptedContext) -> Iterator[None]:
        for _ in range(2 if warm else 1):
            handles = [prompt.start(t, **params) for prompt in prompts]
            yield from run_until_all_finished(handles)
        found.extend(Response(tuple(handle.output_ids)) for handle in handles)

    with InProcessSession.start(backend="reference", **kwargs) as session:
        session.execute_script(script)
    return found
