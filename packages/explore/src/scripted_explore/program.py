"""A program: an engine's arguments, and the operations that are done to it."""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any

import msgspec

from scripted_explore.operations import MOST_TOKENS, AnyOp, EvictPrefix, Start

NEW_TOKENS = 24
"""Output tokens of the undisturbed run of a prompt: no request asks for more."""


class Program(msgspec.Struct, frozen=True):
    """``ops`` are done one after the other on an engine with ``kwargs``; ``topology`` names its kind.

    A program is a value: equal ones do the same, byte for byte on an engine that is deterministic.
    """

    topology: str
    kwargs: dict[str, Any]
    ops: tuple[AnyOp, ...]

    def as_json(self) -> str:
        """As JSON, which ``program_from_json`` reads."""
        return msgspec.json.encode(self).decode()

    def with_ops(self, ops: Iterable[AnyOp]) -> Program:
        """The same engine, other operations."""
        return Program(self.topology, self.kwargs, tuple(ops))

    def prompts(self) -> list[PromptKey]:
        """The prompts that its requests have, each once."""
        return list(dict.fromkeys(key_of(op) for op in self.ops if isinstance(op, Start)))


class PromptKey(msgspec.Struct, frozen=True, array_like=True):
    """What a prompt is made of."""

    family: int
    shared: int
    own: int
    own_tokens: int

    @property
    def text(self) -> str:
        """As a key of a JSON object."""
        return f"{self.family}/{self.shared}/{self.own}/{self.own_tokens}"

    def tokens(self, vocab_size: int) -> list[int]:
        """Token ids: the beginning of the family's, then the variant's own."""
        shared = _stream(f"family {self.family}", vocab_size)[: self.shared]
        own = _stream(f"own {self.family} {self.own}", vocab_size)[: self.own_tokens]
        return [*shared, *own]


Expected = Mapping[str, list[int]]
"""What each prompt puts out when nothing disturbs it, by ``PromptKey.text``."""


@lru_cache(maxsize=256)
def _stream(name: str, vocab_size: int) -> tuple[int, ...]:
    rng = random.Random(name)
    # Small ids are special in many vocabularies.
    return tuple(rng.randrange(min(8, vocab_size - 1), vocab_size) for _ in range(MOST_TOKENS))


def key_of(op: Start | EvictPrefix) -> PromptKey:
    """The prompt that an operation means."""
    return PromptKey(op.family, op.shared, op.own, op.own_tokens)


def program_from_json(text: str | bytes) -> Program:
    """Read what ``Program.as_json`` wrote; ``msgspec.ValidationError`` when it is something else."""
    return msgspec.json.decode(text, type=Program)
