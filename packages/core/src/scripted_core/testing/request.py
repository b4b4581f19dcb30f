"""Requests of the fake engine, and the output that they have to have."""

from __future__ import annotations

from collections.abc import Sequence

from scripted_core.requests import ClientStream, ReqSpec
from scripted_core.testing.prefix_tree import FakeTreeNode


class FakeRequest:
    """One live request: ``computed`` counts the tokens whose KV is in its pages."""

    def __init__(self, *, spec: ReqSpec, client: ClientStream) -> None:
        self.spec = spec
        self.client = client
        self.output_ids: list[int] = []
        self.computed = 0
        self.pages: list[int] = []
        self.shared_pages: list[int] = []
        self.row: int | None = None
        self.node: FakeTreeNode | None = None

    @property
    def rid(self) -> str:
        """Its rid."""
        return self.spec.rid

    def tokens(self) -> tuple[int, ...]:
        """Prompt and output so far."""
        return (*self.spec.input_ids, *self.output_ids)

    @property
    def missing(self) -> int:
        """Tokens whose KV has yet to be computed before a next token comes out."""
        return len(self.spec.input_ids) + len(self.output_ids) - self.computed


def next_token(tokens: Sequence[int], vocab_size: int) -> int:
    """The token after ``tokens``: a function of all of them and of their order."""
    state = 17
    for token in tokens:
        state = (state * 31 + token + 1) % 1_000_003
    return 1 + state % (vocab_size - 1)


def expected_output(
    input_ids: Sequence[int], *, max_new_tokens: int, vocab_size: int = 1000
) -> list[int]:
    """What the fake engine has to generate for a prompt, however it is scheduled."""
    tokens = list(input_ids)
    for _ in range(max_new_tokens):
        tokens.append(next_token(tokens, vocab_size))
    return tokens[len(input_ids) :]
